"""Aggregate scores as papers report them: sum over an object's images, then average over objects, then folds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from operator import add
from statistics import fmean

from persam_dreambooth.evaluation.segmentation.running import Score


@dataclass(frozen=True)
class ObjectScore:
    """Score of one object or class, summed over its episodes; the fields are columns of the results.

    Attributes:
        contestant: name of the method.
        fold, group: the fold, and the object or class.
        episodes: number of episodes.
        iou, boundary_iou, accuracy: in [0, 1]; sum(I) / sum(U), the same for boundary bands, sum(I) / sum(target).
        unlearned: number of episodes whose reference could not be learned, which count as empty masks.
    """

    contestant: str
    fold: int
    group: str
    episodes: int
    iou: float
    boundary_iou: float
    accuracy: float
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
                unlearned=sum(score.error is not None for score in block),
            )
        )
    return rows


def means(rows: Sequence[ObjectScore]) -> dict[str, float]:
    """Return mIoU, bIoU and mAcc in percent: averaged over each fold's objects, then over the folds."""
    by_fold: dict[int, list[ObjectScore]] = {}
    for row in rows:
        by_fold.setdefault(row.fold, []).append(row)
    columns = {"mIoU": "iou", "bIoU": "boundary_iou", "mAcc": "accuracy"}
    return {
        name: 100 * fmean(fmean(getattr(row, column) for row in fold) for fold in by_fold.values())
        for name, column in columns.items()
    }
