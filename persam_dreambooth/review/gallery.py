"""HTML of the runs' tab: validation pictures of one run or two side by side, generated pictures, differing settings.

Everything that comes from a file is escaped.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from persam_dreambooth.model_folder import training_settings
from persam_dreambooth.photos import files
from persam_dreambooth.review import runs
from persam_dreambooth.review.runs import Validated
from persam_dreambooth.review.workspace import Workspace


def validation_gallery(workspace: Workspace, chosen: Sequence[tuple[str, Path]]) -> str:
    """Lay out the validation pictures of one or several runs: a table for each prompt.

    A column is a step, the newest first; a row is a seed of a run. Rows of the same seed follow each other, so that
    the runs' pictures of one step and seed stand one above the other.

    Args:
        workspace: gives the pictures' addresses.
        chosen: name and folder of each run.
    """
    tables: dict[str, dict[tuple[str, str], dict[int, Validated]]] = {}
    for name, run in chosen:
        for picture in runs.validation_pictures(run):
            rows = tables.setdefault(picture.prompt, {})
            rows.setdefault((picture.seed, name), {})[picture.step] = picture
    several = len(chosen) > 1
    return "".join(_table(workspace, prompt, rows, several) for prompt, rows in tables.items()) or _no_pictures(
        chosen[0][1]
    )


def _no_pictures(run: Path) -> str:
    """Say when there will be pictures, or what makes a run draw some."""
    settings = training_settings(run)
    if settings.get("final_validation_prompt"):
        words = "No validation images yet: this run draws them after its last step."
    elif settings.get("validation_prompt") or settings.get("validation_prompts_file"):
        words = "No validation images yet; they appear here without a reload."
    else:
        words = "No validation images: train with --validation_prompt to see here what the model draws."
    return f"<p class='quiet'>{words}</p>"


def _table(workspace: Workspace, prompt: str, rows: dict[tuple[str, str], dict[int, Validated]], named: bool) -> str:
    steps = sorted({step for row in rows.values() for step in row}, reverse=True)
    head = "".join(f"<th>step {step}</th>" for step in steps)
    body = ""
    seeds = list(dict.fromkeys(seed for seed, _ in rows))
    for (seed, name), row in sorted(rows.items(), key=lambda item: seeds.index(item[0][0])):
        cells = "".join(f"<td>{_image(workspace, row[step].path) if step in row else ''}</td>" for step in steps)
        owner = f"<b>{escape(name)}</b><br>" if named else ""
        body += f"<tr><th>{owner}seed {escape(seed)}</th>{cells}</tr>"
    table = f"<div class='strip'><table><tr><th></th>{head}</tr>{body}</table></div>"
    return f"<section><h4>{escape(prompt)}</h4>{table}</section>"


def generated_gallery(workspace: Workspace, run: Path) -> str:
    """Lay out a run's generated pictures by folder, the newest first, each with its prompt and seed."""
    parts = []
    for folder, drawn in runs.generated_pictures(run).items():
        figures = "".join(
            f"<figure>{_image(workspace, picture.path)}"
            f"<figcaption>{escape(picture.prompt)} · seed {escape(picture.seed)}</figcaption></figure>"
            for picture in drawn
        )
        title = f"Generated: {folder.relative_to(run).as_posix()}"
        parts.append(f"<section><h4>{escape(title)}</h4><div class='figures'>{figures}</div></section>")
    return "".join(parts)


def differences(names: tuple[str, str], first: Path, second: Path) -> str:
    """Lay out the settings in which two runs differ."""
    differing = runs.differing_settings(first, second)
    if not differing:
        return "<p class='quiet'>Both runs have the same settings.</p>"
    rows = "".join(
        f"<tr><th>--{escape(name)}</th><td>{escape(own)}</td><td>{escape(other)}</td></tr>"
        for name, (own, other) in differing.items()
    )
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    return f"<table class='differences'><tr><th>differs in</th>{head}</tr>{rows}</table>"


def _image(workspace: Workspace, path: Path) -> str:
    """Return an image whose address changes with the file, so that the browser keeps what has not changed."""
    address = f"picture/{quote(workspace.address(path), safe='/')}?side=512"
    state = files.file_state(path)
    version = f"&v={state[2]}" if state else ""
    return f"<img loading='lazy' src='{escape(address + version)}' alt=''>"
