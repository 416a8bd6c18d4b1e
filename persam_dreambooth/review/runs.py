"""A training run as the page shows it: losses, validation pictures, and generated pictures, old and new."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image

from persam_dreambooth import generation
from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import training_settings
from persam_dreambooth.photos import files
from persam_dreambooth.review.jobs import Background
from persam_dreambooth.training.runtime.metrics_file import METRICS_NAME, read_metrics
from persam_dreambooth.training.runtime.resuming import LOCK_NAME
from persam_dreambooth.training.runtime.validation import VALIDATION_FOLDER
from persam_dreambooth.training.screen import WINDOW

GENERATED = "generated"
"""Subfolder for the pictures that the page generates, in numbered folders."""
MOST_PICTURES = 16
MOST_POINTS = 500
"""Points of a curve, at most."""
LOSS = "loss"


@dataclass(frozen=True)
class Drawn:
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

    Runs of earlier versions have only tensorboard's files; if a step was trained twice, the later counts.

    Raises:
        UserError: there are only such files, but tensorboard is not installed.
    """
    written = read_metrics(run)
    if written:
        return [(step, values[LOSS]) for step, values in written.items() if LOSS in values]
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
            words = _words(path)
            order = int(named[1]), int(named[2] or 0), int(named[3])
            found.append((order, Validated(path, order[0], words.get("prompt", usual), words.get("seed", named[3]))))
    return [picture for _, picture in sorted(found, key=lambda item: item[0])]


def state(run: Path) -> object:
    """Return a value that changes when the run has written a step or a validation picture, or has ended."""
    watched = (run / METRICS_NAME, run / VALIDATION_FOLDER, run / LOCK_NAME)
    return [files.file_state(path) for path in watched]


def progress_words(run: Path, points: Sequence[tuple[int, float]]) -> str:
    """Say in one line how far a run is: "step 120 of 500, mean loss 0.1032, running"."""
    steps = training_settings(run).get("max_train_steps")
    activity = "running" if (run / LOCK_NAME).exists() else "not running"
    if not points:
        return f"no step yet, {activity}"
    of = f" of {steps}" if isinstance(steps, int) else ""
    return f"step {points[-1][0]}{of}, mean loss {smoothed(points)[-1][1]:.4f}, {activity}"


def differing_settings(first: Path, second: Path) -> dict[str, tuple[str, str]]:
    """Return the flags whose values differ between two runs; those that only name places are left out."""
    one, other = training_settings(first), training_settings(second)
    names = [name for name in {**one, **other} if name not in ("output_dir", "resume_from_checkpoint")]
    return {name: (str(one.get(name)), str(other.get(name))) for name in names if one.get(name) != other.get(name)}


def generated_pictures(run: Path) -> dict[Path, list[Drawn]]:
    """Return the generated pictures of a run by folder, the newest folder first."""
    grids: dict[Path, list[Drawn]] = defaultdict(list)
    inside = {path.parent for path in run.rglob(f"*/{generation.GRID_NAME}")} | set((run / GENERATED).glob("*/"))
    for folder in sorted(inside, key=lambda path: path.stat().st_mtime, reverse=True):
        for path in sorted(folder.glob("*.png")):
            words = _words(path)
            if "prompt" in words and "seed" in words:
                grids[folder].append(Drawn(path, words["prompt"], words["seed"]))
    return dict(grids)


class Generator(Background):
    """Generates pictures with a run's model, in the background, one request at a time.

    Args:
        device: None uses the accelerator if there is one.
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self._device = device
        self._loaded: tuple[Path, Any] | None = None
        self.done, self.wanted = 0, 0

    def start(self, run: Path, prompt: str, num_images: int, seed: int, **options: Any) -> None:
        """Start generating pictures of a prompt into a new folder of the run.

        Raises:
            UserError: another request is running, or this one is invalid.
        """
        self.begin(
            lambda: self._prepared(run, prompt, num_images, seed, options),
            "pictures are already being generated; wait until they are finished",
        )

    def _prepared(
        self, run: Path, prompt: str, num_images: int, seed: int, options: dict[str, Any]
    ) -> Callable[[], None]:
        if not prompt.strip():
            raise UserError('no prompt; write one, such as "a sks dog in the jungle"')
        if not 1 <= num_images <= MOST_PICTURES or not 1 <= options.get("num_inference_steps", 1) <= 1000:
            raise UserError(f"1 to {MOST_PICTURES} pictures of 1 to 1000 steps can be generated at once")
        if not -(2**63) <= seed < 2**63 - MOST_PICTURES:
            raise UserError(f"the seed {seed} must lie in [-2^63, 2^63 - {MOST_PICTURES})")
        self.done, self.wanted = 0, num_images
        return lambda: self._draw(run, prompt, num_images, seed, options)

    def _draw(self, run: Path, prompt: str, num_images: int, seed: int, options: dict[str, Any]) -> None:
        if self._loaded is None or self._loaded[0] != run:
            self._loaded = None  # two models at once may not fit
            self._loaded = run, generation.load_pipeline(str(run), device=self._device, dtype=torch.float32)
        folder = next(path for number in range(1, 10**6) if not (path := run / GENERATED / f"{number:03d}").exists())
        paths = generation.picture_paths(folder, [prompt], num_images, seed)

        def keep(picture: generation.Picture) -> None:
            generation.save_picture(picture, paths[picture.prompt, picture.seed], run.name, options)
            self.done += 1

        pictures = generation.generate(self._loaded[1], [prompt], num_images, seed, keep, **options)
        generation.save_grid(pictures, num_images, folder)


def _words(path: Path) -> dict[str, str]:
    """Return a PNG's text entries; empty if it cannot be read."""
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return {key: str(value) for key, value in getattr(picture, "text", {}).items()}
    except (OSError, ValueError, SyntaxError):
        return {}
