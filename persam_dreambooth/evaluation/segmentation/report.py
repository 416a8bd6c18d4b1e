"""Report of an evaluation: averages beside the paper's numbers, as JSON and CSV, and a sheet of the worst cases."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import groupby
from operator import add
from pathlib import Path
from statistics import fmean
from typing import Any

from persam_dreambooth.evaluation.segmentation import quoted
from persam_dreambooth.evaluation.segmentation.protocols import Benchmark, Episode, read_checked
from persam_dreambooth.evaluation.segmentation.running import Score, mask_path
from persam_dreambooth.images import to_mask
from persam_dreambooth.photos import files, rendering


@dataclass(frozen=True)
class ObjectScore:
    """Score of one object or class, summed over its episodes; the fields are columns of the results.

    Attributes:
        contestant: name of the method.
        fold, group: the fold, and the object or class.
        episodes: number of episodes.
        iou, boundary_iou, accuracy: in [0, 1]; sum(I) / sum(U), the same for boundary bands, sum(I) / sum(target).
        intersection, union, pixels: numbers of pixels, of I and of U and of the photos.
        unlearned: number of episodes whose reference could not be learned, which count as empty masks.
    """

    contestant: str
    fold: int
    group: str
    episodes: int
    iou: float
    boundary_iou: float
    accuracy: float
    intersection: int
    union: int
    pixels: int
    unlearned: int


def per_object(scores: Sequence[Score]) -> list[ObjectScore]:
    """Sum each method's scores over the episodes of each object, in order of the methods' first appearance."""
    order = {name: index for index, name in enumerate(dict.fromkeys(score.contestant for score in scores))}

    def key(score: Score) -> tuple[int, int, str]:
        return order[score.contestant], score.fold, score.group

    rows = []
    for _, same in groupby(sorted(scores, key=key), key=key):
        block = list(same)
        region, boundary = (
            reduce(add, overlaps)
            for overlaps in zip(*((score.region, score.boundary) for score in block), strict=True)
        )
        rows.append(
            ObjectScore(
                contestant=block[0].contestant,
                fold=block[0].fold,
                group=block[0].group,
                episodes=len(block),
                iou=region.iou,
                boundary_iou=boundary.iou,
                accuracy=region.accuracy,
                intersection=region.intersection,
                union=region.union,
                pixels=sum(score.pixels for score in block),
                unlearned=sum(score.error is not None for score in block),
            )
        )
    return rows


def means(rows: Sequence[ObjectScore]) -> dict[str, float]:
    """Return mIoU, bIoU, mAcc and FB-IoU in percent.

    The first three are averaged over each fold's objects, then over the folds; FB-IoU is computed for each fold as a
    whole (`foreground_background_iou`), then averaged over the folds.
    """
    by_fold: dict[int, list[ObjectScore]] = {}
    for row in rows:
        by_fold.setdefault(row.fold, []).append(row)
    columns = {"mIoU": "iou", "bIoU": "boundary_iou", "mAcc": "accuracy"}
    averages = {
        name: 100 * fmean(fmean(getattr(row, column) for row in fold) for fold in by_fold.values())
        for name, column in columns.items()
    }
    return averages | {"FB-IoU": 100 * fmean(map(foreground_background_iou, by_fold.values()))}


def foreground_background_iou(rows: Sequence[ObjectScore]) -> float:
    """Return the FB-IoU of few-shot segmentation, in [0, 1], over all objects as one (Rakelly et al. 2018).

    It is the mean of the foreground's and the background's IoU, each sum(I) / sum(U). A pixel is in the background's
    intersection unless it is in the foreground's union, and in its union unless it is in the foreground's
    intersection.
    """
    shared, covered, pixels = (sum(getattr(row, name) for row in rows) for name in ("intersection", "union", "pixels"))
    ious = [part / whole if whole else 1.0 for part, whole in ((shared, covered), (pixels - covered, pixels - shared))]
    return fmean(ious)


RESULTS_NAME, ROWS_NAME, WORST_NAME = "results.json", "results.csv", "worst.png"
WORST = 24
"""Number of cases on the sheet of the worst cases."""


def table(head: Sequence[str], rows: Sequence[tuple[str, Mapping[str, float], Mapping[str, float]]]) -> str:
    """Format measures next to the paper's, in percent, as lines of text.

    Args:
        head: the measures.
        rows: title of each row, our numbers and the paper's; unknown numbers are shown as a dash, and the paper's
            column of a measure without any is left out.
    """
    known = {name for _, _, paper in rows for name in paper}
    columns = [(name, word) for name in head for word in (name, "paper") if word == name or name in known]
    words = [["", *(word for _, word in columns)]]
    for title, ours, paper in rows:
        numbers = [(paper if word == "paper" else ours).get(name) for name, word in columns]
        words.append([title, *map(_percent, numbers)])
    return aligned(words)


def object_table(rows: Sequence[ObjectScore], method: str) -> str:
    """Format the IoU of the ten objects of the paper's table 1, ours and of all methods, in percent, as lines of text.

    A folder belongs to an object if their names have the same letters: `teddybear`, `robot_toy`.
    """
    ours = {_letters(row.group): 100 * row.iou for row in rows}
    words = [["", method, *(f"{quoted.title(name)} (quoted)" for name in quoted.OBJECT_IOUS)]]
    for name, numbers in zip(quoted.OBJECTS, zip(*quoted.OBJECT_IOUS.values(), strict=True), strict=True):
        words.append([name, *map(_percent, (ours.get(_letters(name)), *numbers))])
    return aligned(words)


def aligned(words: Sequence[Sequence[str]]) -> str:
    """Format rows of words as lines of text: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*words, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in words
    )


def _percent(number: float | None) -> str:
    return "-" if number is None else f"{number:.1f}"


def _letters(name: str) -> str:
    return "".join(filter(str.isalpha, name.lower()))


def write_results(
    output: Path, settings: Mapping[str, Any], summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write `results.json` (settings, summary, rows) and the rows alone as `results.csv`.

    Args:
        output: the run's folder.
        settings: the run's settings.
        summary: its averages and the paper's, in percent.
        rows: one per object, at least one, all with the same keys.
    """
    files.write_json(
        {"settings": dict(settings), "summary": dict(summary), "objects": list(rows)}, output / RESULTS_NAME
    )
    with files.replacing(output / ROWS_NAME) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_report(
    output: Path,
    benchmark: Benchmark,
    settings: Mapping[str, Any],
    episodes: Sequence[Episode],
    scores: Sequence[Score],
    rows: Sequence[ObjectScore],
    paper: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, float]]:
    """Write results and the sheet of the worst cases.

    Args:
        output: the run's folder, with its masks.
        benchmark, settings: the run's benchmark and settings.
        episodes, scores: from `evaluate`.
        rows: the scores aggregated by `per_object`.
        paper: method -> measure -> the paper's number, if known.

    Returns:
        Method -> measure -> our number, in percent.
    """
    names = list(dict.fromkeys(row.contestant for row in rows))
    ours = {name: means([row for row in rows if row.contestant == name]) for name in names}
    summary = {name: {"ours": ours[name], "paper": dict(paper.get(name, {}))} for name in names}
    write_results(output, settings, summary, [asdict(row) for row in rows])
    worst_sheet(output, benchmark, episodes, scores)
    return ours


def worst_sheet(output: Path, benchmark: Benchmark, episodes: Sequence[Episode], scores: Sequence[Score]) -> None:
    """Write `worst.png`: the results with the lowest IoU, the true mask on the left, the found one on the right."""
    by_name = {episode.name: episode for episode in episodes}
    several = len({score.contestant for score in scores}) > 1
    pictures, captions = [], []
    for score in sorted(scores, key=lambda score: score.region.iou)[:WORST]:
        episode = by_name[score.episode]
        image, true = read_checked(benchmark, episode.query)
        found = files.read_mask(mask_path(output, score.contestant, episode))
        pair = [rendering.overlay(image, to_mask(true)), rendering.overlay(image, found)]
        pictures.append(rendering.joined(pair, across=True))
        whose = f"{score.contestant}  " if several else ""
        captions.append(f"{100 * score.region.iou:.0f} %  {whose}{episode.group}  {episode.query.image}")
    files.write_picture(rendering.sheet(pictures, captions, columns=4), output / WORST_NAME)
