"""Ask every episode of every contestant, once, however often this is interrupted and called again."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

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
from persam_dreambooth.segmentation import Backbone, EncodedPhoto, PerSAM, Reference

SETTINGS_NAME, SCORES_NAME = "evaluation.json", "scores.jsonl"

Finder = Callable[[EncodedPhoto], NDArray[np.bool_]]
"""A photo to the subject's mask in it, (H, W) bool."""
Contestant = Callable[[Reference], Finder]
"""What learns a subject from its reference; a UserError says that this one cannot be learned."""


@dataclass(frozen=True)
class Plan:
    """What is to be asked, and where the answers go.

    Attributes:
        benchmark: the data set and its protocol.
        output: folder for episodes, masks and scores.
        settings: what makes this run this run, JSON-able; another run's folder is refused.
        folds: the benchmark's folds to ask; None asks all.
        seed: of the episodes that are drawn at random.
        episodes: how many a fold; None asks as many as the protocol.
    """

    benchmark: Benchmark
    output: Path
    settings: Mapping[str, Any]
    folds: Sequence[int] | None = None
    seed: int = 0
    episodes: int | None = None


@dataclass(frozen=True)
class Score:
    """One contestant's answer to one episode, counted.

    Attributes:
        contestant, episode, fold, group: whose, to which.
        region: found against true mask.
        boundary: the same for the bands of Boundary IoU.
        error: why the reference could not be learned; such an answer counts as an empty mask.
    """

    contestant: str
    episode: str
    fold: int
    group: str
    region: Overlap
    boundary: Overlap
    error: str | None = None


def evaluate(
    plan: Plan, names: Sequence[str], load: Callable[[], tuple[Backbone, Mapping[str, Contestant]]]
) -> tuple[list[Episode], list[Score]]:
    """Score contestants on a benchmark.

    Args:
        plan: what to ask.
        names: of the contestants.
        load: the SAM that encodes the photos, and the contestants by name; called only when
            something is still to be asked.

    Returns:
        The episodes, and a score for each contestant and episode, in the order of `names`.

    Raises:
        UserError: another run's folder, a data set that cannot be read, or what `load` raises.
    """
    open_output(plan.output, plan.settings)
    folds = range(plan.benchmark.folds) if plan.folds is None else plan.folds
    listed = list_episodes(plan.benchmark, plan.output / EPISODES_NAME, folds, plan.seed, plan.episodes)
    journal = Journal(plan.output / SCORES_NAME)
    scored = {(score.contestant, score.episode): score for score in map(_score, journal.lines())}

    def done(name: str, episode: Episode) -> bool:
        return (name, episode.name) in scored and mask_path(plan.output, name, episode).exists()

    left = [(episode, [name for name in names if not done(name, episode)]) for episode in listed]
    waiting = [(episode, contestants) for episode, contestants in left if contestants]
    if waiting:
        backbone, contestants = load()
        with tqdm(total=sum(len(left) for _, left in waiting), desc=plan.benchmark.title, unit="mask") as progress:
            for score in _answers(plan, backbone, contestants, waiting):
                journal.append(asdict(score))
                scored[score.contestant, score.episode] = score
                progress.update()
    return listed, [scored[name, episode.name] for name in names for episode in listed]


def _answers(
    plan: Plan,
    backbone: Backbone,
    contestants: Mapping[str, Contestant],
    waiting: list[tuple[Episode, list[str]]],
) -> Iterator[Score]:
    """Learn each reference once, encode each query once, write and count what every contestant finds."""
    encoder = PerSAM(backbone)
    for shot, block in groupby(waiting, key=lambda one: one[0].reference):
        reference = read_checked(plan.benchmark, shot)
        learned: dict[str, Finder | UserError] = {}
        for episode, names in block:
            image, drawn = read_checked(plan.benchmark, episode.query)
            true = to_mask(drawn)
            (photo,) = encoder.encode([image])
            for name in names:
                if name not in learned:
                    learned[name] = _learn(contestants[name], *reference)
                find = learned[name]
                found = np.zeros_like(true) if isinstance(find, UserError) else find(photo)
                files.write_mask(found, mask_path(plan.output, name, episode))
                yield Score(
                    name,
                    episode.name,
                    episode.fold,
                    episode.group,
                    overlap(found, true),
                    boundary_overlap(found, true),
                    str(find) if isinstance(find, UserError) else None,
                )


def _learn(contestant: Contestant, image: Any, mask: Any) -> Finder | UserError:
    """A reference that cannot be learned (a mask that fills its crop) is an answer too, and a wrong one."""
    try:
        return contestant(Reference(image, mask))
    except UserError as error:
        return error


def mask_path(output: Path, contestant: str, episode: Episode) -> Path:
    """Where the found mask of an episode lies."""
    return output / "masks" / contestant / f"{episode.name}.png"


def _score(line: dict[str, Any]) -> Score:
    overlaps = {key: Overlap(**line[key]) for key in ("region", "boundary")}
    return Score(**line | overlaps)


def open_output(output: Path, settings: Mapping[str, Any]) -> None:
    """Make the output folder this run's; one that holds nothing but a list of episodes is welcome.

    Raises:
        UserError: it holds another run, or something else.
    """
    if not files.refuse_other_runs(output, SETTINGS_NAME, settings, "evaluation", (EPISODES_NAME,)):
        files.write_json(dict(settings), output / SETTINGS_NAME)


class Journal:
    """A file of JSON lines that grows; a killed run loses at most the line it was writing.

    Args:
        path: the file; made when the first line comes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[dict[str, Any]]:
        """All whole lines; a cut-off end is also removed from the file, so that nothing is appended to it.

        Raises:
            UserError: a line before the last is damaged.
        """
        if not self._path.exists():
            return []
        stored = self._path.read_bytes()
        *whole, rest = stored.split(b"\n")
        if rest:
            with files.replacing(self._path) as temporary:
                temporary.write_bytes(stored[: -len(rest)])
        lines = []
        for number, line in enumerate(whole, start=1):
            with suppress(ValueError):
                lines.append(json.loads(line))
            if len(lines) < number:
                raise UserError(f"line {number} of {self._path} is damaged; delete that line and run again")
        return lines

    def append(self, line: object) -> None:
        """Add one line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
