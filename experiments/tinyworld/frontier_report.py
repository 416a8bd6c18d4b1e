"""The frontier's table, plot and blind sheets, from the images of its runs."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from tqdm import tqdm

from companions import shows
from confounds import same_scene
from frontier_run import Job
from frontier_tables import Runs, mean_of, tables
from identity import Recognizer, portrait
from kitchen import shows_kitchen
from measures import fidelity, measure, pose_distances
from persam_dreambooth.photos import files, rendering
from protocol import SHARE, Curve, best
from scenes import UNNAMED
from subjects import Identity
from wholeness import whole

MEASURES = ("identity", "fidelity", "scene", "leakage", "unprompted", "uninvited", "whole", "pose")
DRAWN = 8
"""Drawn pictures of each subject that are measured, for the scale."""


def write_report(output: Path, jobs: Sequence[Job]) -> str:
    """Write `results.json`, `table.md`, `frontier.png` and the blind sheets; return the table."""
    runs = read_runs(jobs)
    table = tables(runs, drawn_scale(jobs))
    (output / "table.md").write_text(table)
    lengths = {
        "/".join(key): {
            "steps": mean.steps.tolist(),
            **{name: [round(float(value), 4) for value in mean.values[name]] for name in mean.values},
        }
        for key, subjects in runs.items()
        if (mean := mean_of(subjects))
    }
    (output / "results.json").write_text(json.dumps(lengths, indent=1) + "\n")
    plot(runs, output / "frontier.png")
    write_blind_sheets(output, jobs, runs)
    return table


def read_runs(jobs: Sequence[Job]) -> Runs:
    """Judge the images of all jobs, or read the result of a job that was judged before."""
    runs: Runs = {}
    for job in tqdm(jobs, "judging"):
        judged = job.folder / f"judged-{len(MEASURES)}.json"  # results with other measures stay beside it
        if not judged.exists():
            points = [judge(job, length) for length in job.lengths]
            with files.replacing(judged) as beside:
                beside.write_text(json.dumps(points))
        curve = read_curve(json.loads(judged.read_text()))
        runs.setdefault((job.confound, job.row), {}).setdefault(job.subject.name, []).append(curve)
    return runs


def judge(job: Job, length: int) -> dict[str, Any]:
    """Measure each image that was generated after `length` steps.

    Returns:
        "step", and for each of `MEASURES` a list with one value per image; "scene" and "leakage" only for prompts
        with a scene, and "unprompted", whether the photos' scene is shown, only for those without.
    """
    album, images = job.album(), split(files.read_photo(job.pictures(length)))
    recognizer = recognizer_of(album.identity)
    scenes = [scene for scene in album.other_scenes for _ in range(job.recipe.pictures)]
    photos = measure([picture.image for picture in album.pictures], album.identity)
    colours = tuple(np.mean([photo.colours for photo in photos], axis=0))
    seen = measure(images, album.identity)
    own_scene = shows_kitchen(images) if album.scene == UNNAMED else [found.scene == album.scene for found in seen]
    return {
        "step": length,
        "scene": [found.scene == scene for found, scene in zip(seen, scenes, strict=False)],
        "leakage": own_scene[: len(scenes)],
        "unprompted": own_scene[len(scenes) :],
        "identity": recognizer.recognizes(images),
        "fidelity": [fidelity(found, album.identity, colours)["fidelity"] for found in seen],
        "uninvited": shows(images, job.subject.companion.kind),
        "whole": whole(images, album.identity.kind),
        "pose": pose_distances(images, [picture.image for picture in album.pictures]),
    }


@cache
def recognizer_of(identity: Identity) -> Recognizer:
    """Return the recognizer of an individual; its gallery is drawn once for all of the individual's runs."""
    return Recognizer(identity)


def split(strip: Image.Image) -> list[Image.Image]:
    """Cut a strip into its square images, from left to right."""
    side = strip.height
    return [strip.crop((left, 0, left + side, side)) for left in range(0, strip.width, side)]


def read_curve(points: list[dict]) -> Curve:
    """Turn a run's points, with one value per image, into a curve of means."""
    values = {name: np.array([float(np.mean(point[name])) for point in points]) for name in MEASURES}
    return Curve(np.array([point["step"] for point in points]), values)


def drawn_scale(jobs: Sequence[Job]) -> dict[str, float]:
    """Return what drawn pictures of the jobs' subjects reach: the most that generated images can."""
    right: list[bool] = []
    complete: list[bool] = []
    apart: list[float] = []
    for subject in dict.fromkeys(job.subject for job in jobs):
        rng = np.random.default_rng([*subject.seed, 3])
        pictures = [portrait(subject.identity, rng).image for _ in range(DRAWN)]
        right += recognizer_of(subject.identity).recognizes(pictures)
        complete += whole(pictures, subject.identity.kind)
        apart += pose_distances(pictures, [picture.image for picture in same_scene(subject).pictures])
    return {
        "identity": float(np.mean(right)),
        "whole": float(np.mean(complete)),
        "pose": float(np.mean(apart)),
    }


def plot(runs: Runs, path: Path) -> None:
    """Plot against identity, a line of panels for each confound: scene accuracy, wholeness, and what comes uninvited.

    That is the photos' companion, or else their scene in the images of a prompt without one.
    """
    confounds = list(dict.fromkeys(confound for confound, _ in runs if confound))
    figure, axes = plt.subplots(
        len(confounds), 3, figsize=(12, 3.6 * len(confounds)), squeeze=False, layout="constrained"
    )
    for confound, panels in zip(confounds, axes, strict=True):
        means = {row: mean_of(subjects) for (of, row), subjects in runs.items() if of in (confound, "")}
        measures = {"scene": "prompted scene obeyed", "whole": "whole subjects"}
        measures |= (
            {"uninvited": "companion drawn"} if confound == "companion" else {"unprompted": "unprompted background"}
        )
        for panel, (name, label) in zip(panels, measures.items(), strict=True):
            _plot_panel(panel, means, name)
            panel.set(xlabel="identity, %", ylabel=f"{label}, %", xlim=(0, 100), ylim=(-2, 102))
        panels[0].set_title(f"photos share: {confound}", loc="left")
        panels[0].legend(loc="lower left")
    with files.replacing(path) as beside:
        figure.savefig(beside, dpi=110, format="png")
    plt.close(figure)


def _plot_panel(panel: Any, means: Mapping[str, Curve], name: str) -> None:
    """Plot one measure of each row; numbers at an arm's points are steps."""
    for row, mean in means.items():
        style = {"oracle": "k:", "base": "kx"}.get(row, ".-")
        x, y = 100 * mean.identity, 100 * mean.values[name]
        panel.plot(x, y, style, label=row)
        if row not in ("oracle", "base"):
            for step, *place in zip(mean.steps, x, y, strict=True):
                panel.annotate(str(step), place, fontsize=6)


def write_blind_sheets(output: Path, jobs: Sequence[Job], runs: Runs) -> None:
    """Write `blind-CONFOUND.png`, with a row for each arm and rate of each subject, shuffled, and the key.

    The key is `blind.json`. Each row's images are those of its shortest training with 80 % of the oracle's identity.
    """
    if ("", "oracle") not in runs:
        return
    oracle = runs[("", "oracle")]
    level = SHARE * best(mean_of(oracle))["identity"]
    rng, key = np.random.default_rng(0), {}
    for confound in dict.fromkeys(job.confound for job in jobs if job.confound):
        blocks = []
        first = [job for job in jobs if job.confound == confound and job.seed == 0]
        for subject in dict.fromkeys(job.subject for job in first):
            own = [job for job in first if job.subject == subject]
            own = [own[place] for place in rng.permutation(len(own))]
            tiles = [own[0].album().pictures[0].image]
            tiles += [files.read_photo(job.pictures(_length(runs, job, level))) for job in own]
            key[f"{confound}/{subject.name}"] = [job.row for job in own]
            blocks.append(rendering.joined([_row(tile) for tile in tiles]))
        files.write_picture(rendering.joined(blocks), output / f"blind-{confound}.png")
    (output / "blind.json").write_text(json.dumps(key, indent=1) + "\n")


def _row(picture: Image.Image) -> Image.Image:
    """Resize a strip of images to the height of a sheet's row."""
    return picture.resize((round(picture.width * 96 / picture.height), 96))


def _length(runs: Runs, job: Job, level: float) -> int:
    """Return the length at which a row first reaches a level of identity, or else that of its highest identity."""
    subjects = runs[(job.confound, job.row)]
    mean = mean_of(subjects)
    reached = np.flatnonzero(mean.identity >= level)
    return int(mean.steps[reached[0] if len(reached) else np.argmax(mean.identity)])
