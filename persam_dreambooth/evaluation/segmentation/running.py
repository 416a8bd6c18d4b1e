"""Run methods on the episodes of a benchmark; an interrupted run resumes without repeating any episode."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from persam_dreambooth import json_lines
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.metrics import Overlap, boundary_overlap, overlap
from persam_dreambooth.evaluation.segmentation.protocols import (
    EPISODES_NAME,
    Benchmark,
    Episode,
    list_episodes,
    read_checked,
)
from persam_dreambooth.images import to_mask
from persam_dreambooth.photos import files
from persam_dreambooth.segmentation import OneShotSegmenter, Picture, Reference, reference_from
from persam_dreambooth.segmentation.frame import bounding_box

SETTINGS_NAME, SCORES_NAME = "evaluation.json", "scores.jsonl"

Encode = Callable[[Picture], Any]
"""Maps a photo to what all methods of a run segment, an `EncodedPhoto`."""
Segmenter = Callable[[Any], NDArray[np.bool_]]
"""Maps a photo from `Encode` to the subject's mask in it, (H, W) bool."""
EvaluatedMethod = Callable[[Sequence[Reference]], Segmenter]
"""Learns a subject from its references; raises a UserError if it cannot be learned."""


@dataclass(frozen=True)
class BenchmarkPlan:
    """Configuration of a benchmark run.

    Attributes:
        benchmark: the data set and its protocol.
        output: folder for episodes, masks and scores.
        settings: identifies the run, JSON-serializable; a folder of another run is refused.
        folds: the benchmark's folds to run; None runs all.
        seed: seed for drawing episodes.
        episodes: number of episodes per fold; None uses the protocol's number.
        shots: number of references of each episode.
    """

    benchmark: Benchmark
    output: Path
    settings: Mapping[str, Any]
    folds: Sequence[int] | None = None
    seed: int = 0
    episodes: int | None = None
    shots: int = 1


@dataclass(frozen=True)
class Score:
    """Score of one method on one episode; the fields are the keys in `scores.jsonl`.

    Attributes:
        contestant: name of the method.
        episode, fold, group: the episode, with its fold and its object or class.
        region: overlap of the found and the true mask.
        boundary: the same for the bands of Boundary IoU.
        pixels: number of scored pixels of the photo.
        error: why the reference could not be learned, which counts as an empty mask; None if it was.
    """

    contestant: str
    episode: str
    fold: int
    group: str
    region: Overlap
    boundary: Overlap
    pixels: int
    error: str | None = None


def evaluate(
    plan: BenchmarkPlan, names: Sequence[str], load: Callable[[], tuple[Encode, Mapping[str, EvaluatedMethod]]]
) -> tuple[list[Episode], list[Score]]:
    """Score methods on a benchmark.

    Args:
        plan: configuration of the run.
        names: names of the methods.
        load: returns what encodes the photos, and the methods by name; called only if episodes are left to run.

    Returns:
        The episodes, and a score for each method and episode, in the order of `names`.

    Raises:
        UserError: another run's folder, a data set that cannot be read, or an error from `load`.
    """
    open_output(plan.output, plan.settings)
    folds = range(plan.benchmark.folds) if plan.folds is None else plan.folds
    listed = list_episodes(plan.benchmark, plan.output / EPISODES_NAME, folds, plan.seed, plan.episodes, plan.shots)
    journal = Journal(plan.output / SCORES_NAME)
    scored = {(score.contestant, score.episode): score for score in map(_score, journal.lines())}

    def done(name: str, episode: Episode) -> bool:
        return (name, episode.name) in scored and mask_path(plan.output, name, episode).exists()

    left = [(episode, [name for name in names if not done(name, episode)]) for episode in listed]
    waiting = [(episode, names_left) for episode, names_left in left if names_left]
    if waiting:
        encode, methods = load()
        total = sum(len(names_left) for _, names_left in waiting)
        with tqdm(total=total, desc=plan.benchmark.title, unit="mask") as progress:
            for score in _run(plan, encode, methods, waiting):
                journal.append(asdict(score))
                scored[score.contestant, score.episode] = score
                progress.update()
    return listed, [scored[name, episode.name] for name in names for episode in listed]


def _run(
    plan: BenchmarkPlan,
    encode: Encode,
    methods: Mapping[str, EvaluatedMethod],
    waiting: list[tuple[Episode, list[str]]],
) -> Iterator[Score]:
    """Learn the same references once, encode each query once, then write and score the mask of each method."""
    for shots, block in groupby(waiting, key=lambda entry: entry[0].references):
        references = [read_checked(plan.benchmark, shot) for shot in shots]
        learned: dict[str, Segmenter | UserError] = {}
        for episode, names in block:
            image, mask = read_checked(plan.benchmark, episode.query)
            true, void = to_mask(mask), plan.benchmark.void(episode.query)
            photo = encode(image)
            for name in names:
                if name not in learned:
                    learned[name] = _learn(methods[name], references)
                segment = learned[name]
                found = np.zeros_like(true) if isinstance(segment, UserError) else segment(photo)
                files.write_mask(found, mask_path(plan.output, name, episode))
                yield Score(
                    name,
                    episode.name,
                    episode.fold,
                    episode.group,
                    overlap(found, true, void),
                    boundary_overlap(found, true, void),
                    true.size if void is None else int((~void).sum()),
                    str(segment) if isinstance(segment, UserError) else None,
                )


def _learn(method: EvaluatedMethod, references: Sequence[tuple[Any, Any]]) -> Segmenter | UserError:
    """Learn references; a failure (such as a mask that fills its crop) is returned, and counts as a wrong result."""
    try:
        return method([Reference(image, mask) for image, mask in references])
    except UserError as error:
        return error


def mask_path(output: Path, method: str, episode: Episode) -> Path:
    """Return the file of the mask that a method found in an episode."""
    return output / "masks" / method / f"{episode.name}.png"


def _score(line: dict[str, Any]) -> Score:
    overlaps = {key: Overlap(**line[key]) for key in ("region", "boundary")}
    return Score(**line | overlaps)


def open_output(output: Path, settings: Mapping[str, Any]) -> None:
    """Claim the output folder for this run; it may be empty, or contain a list of episodes only.

    Raises:
        UserError: it contains another run, or something else.
    """
    if not files.refuse_other_runs(output, SETTINGS_NAME, settings, "evaluation", (EPISODES_NAME,)):
        files.write_json(dict(settings), output / SETTINGS_NAME)


class Journal:
    """An append-only file of JSON lines; a killed run loses at most the line being written.

    Args:
        path: the file; created with the first line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[dict[str, Any]]:
        """Return all complete lines; what follows them is removed when the next one is appended.

        Raises:
            UserError: a line before the last is damaged.
        """
        return [line.value for line in json_lines.read_lines(self._path)]

    def append(self, line: object) -> None:
        """Add one line."""
        json_lines.append_line(self._path, json_lines.encode(line))


def encode_with(segmenter: OneShotSegmenter) -> Encode:
    """Encode photos with a method's own encoders."""
    return lambda photo: segmenter.encode([photo])[0]


def one_shot_method(segmenter: OneShotSegmenter, box: bool = False) -> EvaluatedMethod:
    """Evaluate PerSAM, PerSAM-F, INSID3 or SegGPT.

    Args:
        segmenter: the method.
        box: use only the tight box around each reference mask (table 6 of the paper). SAM makes the mask from it; for
            SegGPT the filled box is the mask.
    """

    def from_box(reference: Reference) -> Reference:
        tight = bounding_box(torch.from_numpy(reference.foreground))
        assert tight is not None  # a reference mask is never empty
        if segmenter.box_is_mask:
            tight[2:] += 1  # around the last pixels too
        return reference_from(segmenter, reference.pixels, box=tight.numpy())

    def learn(references: Sequence[Reference]) -> Segmenter:
        subject = segmenter.personalize([from_box(reference) for reference in references] if box else references)
        return lambda photo: segmenter.segment(photo, subject).mask

    return learn
