"""A training run as the page shows it: losses, validation pictures, and generated pictures, old and new."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from persam_dreambooth import json_lines
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.checkpoints import REPORT_FOLDER
from persam_dreambooth.evaluation.generation.outcome import METRICS_NAME as REPORT_METRICS
from persam_dreambooth.flags import setting_text
from persam_dreambooth.generated_folder import GRID_NAME
from persam_dreambooth.metrics_file import METRICS_NAME, read_metrics
from persam_dreambooth.model_folder import training_settings
from persam_dreambooth.photos import files
from persam_dreambooth.text_files import read_bounded
from persam_dreambooth.training.runtime.likeness import FIDELITY, LEAKAGE
from persam_dreambooth.training.runtime.resuming import LOCK_NAME
from persam_dreambooth.training.runtime.validation import VALIDATION_FOLDER
from persam_dreambooth.training.screen import WINDOW

GENERATED = "generated"
"""Subfolder for the pictures that the page generates, in numbered folders."""
MOST_POINTS = 500
"""Maximum number of points of a curve."""
LOSS = "loss"


@dataclass(frozen=True)
class Generated:
    """A generated picture on disk with its prompt and seed, from its text entries."""

    path: Path
    prompt: str
    seed: str


@dataclass(frozen=True)
class Validated:
    """A validation picture on disk; what its file does not say is read from its name and the run's settings."""

    path: Path
    step: int
    prompt: str
    seed: str


def losses(run: Path) -> list[tuple[int, float]]:
    """Return the (step, loss) pairs that a run has written so far, from its `metrics.jsonl`.

    Runs of earlier versions have only tensorboard's files; if a step was trained twice, the later value counts.

    Raises:
        UserError: there are only such files, but tensorboard is not installed.
    """
    written = read_metrics(run)
    if written:
        return [(step, values[LOSS]) for step, values in written.items() if math.isfinite(values.get(LOSS, math.nan))]
    return _tensorboard_losses(run)


def smoothed(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the mean loss over the last 50 steps at each step, thinned to about 500 points.

    The loss of a single step depends mostly on its noise. The last step is always among the points.
    """
    every = max(1, -(-len(points) // MOST_POINTS))
    shown = []
    for number in range(len(points) - 1, -1, -every):
        window = [loss for _, loss in points[max(0, number - WINDOW + 1) : number + 1]]
        shown.append((points[number][0], fmean(window)))
    return shown[::-1]


def _tensorboard_losses(run: Path) -> list[tuple[int, float]]:
    folders = sorted({path.parent for path in run.rglob("events.out.tfevents.*")})
    if not folders:
        return []
    try:
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
    except ImportError as error:
        raise UserError(
            "a run without metrics.jsonl needs tensorboard for its curve; install it with `pip install tensorboard`"
        ) from error
    points: dict[int, tuple[float, float]] = {}
    for folder in folders:
        events = EventAccumulator(str(folder), size_guidance={SCALARS: 0}).Reload()
        for event in events.Scalars(LOSS) if LOSS in events.Tags()["scalars"] else ():
            points[event.step] = max(points.get(event.step, (0.0, 0.0)), (event.wall_time, event.value))
    return [(step, points[step][1]) for step in sorted(points)]


def validation_pictures(run: Path) -> list[Validated]:
    """Return the validation pictures by step, then as drawn: prompt by prompt, seed by seed."""
    usual, found = str(training_settings(run).get("validation_prompt") or ""), []
    for path in (run / VALIDATION_FOLDER).glob("step-*-*.png"):
        if named := re.fullmatch(r"step-(\d+)(?:-(\d+))?-(\d+)", path.stem):
            words = files.picture_texts(path)
            order = int(named[1]), int(named[2] or 0), int(named[3])
            found.append((order, Validated(path, order[0], words.get("prompt", usual), words.get("seed", named[3]))))
    return [picture for _, picture in sorted(found, key=lambda item: item[0])]


def measured_points(run: Path) -> list[tuple[int, float, str]]:
    """Return (step, value, measure) of the validation pictures, on a scale from the start (0) to the photos (1)."""
    titles = {FIDELITY: "subject", LEAKAGE: "background leaked"}
    return [
        (step, values[name], title)
        for step, values in read_metrics(run).items()
        for name, title in titles.items()
        if math.isfinite(values.get(name, math.nan))
    ]


@dataclass(frozen=True)
class CheckpointCurves:
    """The findings of `evaluate checkpoints` about a run.

    Attributes:
        reason: a sentence that names the best checkpoint.
        points: (step, value, measure), on a scale from the base model (0) to the photos (1).
    """

    reason: str
    points: list[tuple[int, float, str]]


CURVES = {"fidelity": "subject", "background": "background leaked", "class_leakage": "class leaked"}


def checkpoint_curves(run: Path) -> CheckpointCurves | None:
    """Read the report of `evaluate checkpoints` in a run's folder; None if there is none, or not one of ours."""
    try:
        found = json_lines.parse(read_bounded(run / REPORT_FOLDER / REPORT_METRICS).decode())["checkpoints"]
        points = [
            (int(score["step"]), _finite(score[name]), words)
            for score in found["scores"]
            for name, words in CURVES.items()
            if score[name] is not None
        ]
        return CheckpointCurves(str(found["reason"]), points)
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _finite(value: Any) -> float:
    """Convert to a float.

    Raises:
        ValueError: it is not a number, or NaN or infinite.
    """
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return float(value)


def state(run: Path) -> object:
    """Return a value that changes when the run has taken a step, drawn a picture, ended, or been evaluated."""
    report = run / REPORT_FOLDER / REPORT_METRICS
    watched = (run / METRICS_NAME, run / VALIDATION_FOLDER, run / LOCK_NAME, report)
    return [files.file_state(path) for path in watched]


def progress_words(run: Path, points: Sequence[tuple[int, float]]) -> str:
    """Say in one line how far a run is: "step 120 of 500, mean loss 0.1032, running"."""
    steps = training_settings(run).get("max_train_steps")
    activity = "running" if (run / LOCK_NAME).exists() else "not running"
    if not points:
        return "no step yet, running" if activity == "running" else f"no step yet; train with --output_dir {run}"
    of = f" of {steps}" if isinstance(steps, int) else ""
    return f"step {points[-1][0]}{of}, mean loss {smoothed(points)[-1][1]:.4f}, {activity}"


def differing_settings(first: Path, second: Path) -> dict[str, tuple[str, str]]:
    """Return the flags whose values differ between two runs, without `output_dir` and `resume_from_checkpoint`."""
    own, other = training_settings(first), training_settings(second)
    names = [name for name in {**own, **other} if name not in ("output_dir", "resume_from_checkpoint")]
    return {
        name: (setting_text(own.get(name)), setting_text(other.get(name)))
        for name in names
        if own.get(name) != other.get(name)
    }


def generated_pictures(run: Path) -> dict[Path, list[Generated]]:
    """Return the generated pictures of a run by folder, the newest folder first."""
    grids: dict[Path, list[Generated]] = defaultdict(list)
    inside = {path.parent for path in run.rglob(f"*/{GRID_NAME}")} | set((run / GENERATED).glob("*/"))
    for folder in sorted(inside, key=lambda path: path.stat().st_mtime, reverse=True):
        for path in sorted(folder.glob("*.png")):
            words = files.picture_texts(path)
            if "prompt" in words and "seed" in words:
                grids[folder].append(Generated(path, words["prompt"], words["seed"]))
    return dict(grids)
