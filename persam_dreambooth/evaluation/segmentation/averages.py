"""From counted answers to the numbers of a paper: sum over an object's images, then mean over objects, then folds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from operator import add
from statistics import fmean

from persam_dreambooth.evaluation.segmentation.running import Score


@dataclass(frozen=True)
class ObjectScore:
    """One object or class, summed over its episodes.

    Attributes:
        contestant, fold, group: whose, of which.
        episodes: how many.
        iou, boundary_iou, accuracy: in [0, 1]; sum(I) / sum(U), the same for boundary bands, sum(I) / sum(target).
        unlearned: episodes whose reference could not be learned and which count as empty masks.
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
    """Sum each contestant's scores over the episodes of each object, in the order in which contestants come."""
    order = {name: place for place, name in enumerate(dict.fromkeys(score.contestant for score in scores))}

    def key(score: Score) -> tuple[int, int, str]:
        return order[score.contestant], score.fold, score.group

    rows = []
    for _, same in groupby(sorted(scores, key=key), key=key):
        block = list(same)
        region, boundary = (
            reduce(add, overlaps) for overlaps in zip(*((one.region, one.boundary) for one in block), strict=True)
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
                unlearned=sum(one.error is not None for one in block),
            )
        )
    return rows


def means(rows: Sequence[ObjectScore]) -> dict[str, float]:
    """mIoU, bIoU and mAcc in percent: the mean over a fold's objects, then over the folds."""
    by_fold: dict[int, list[ObjectScore]] = {}
    for row in rows:
        by_fold.setdefault(row.fold, []).append(row)
    columns = {"mIoU": "iou", "bIoU": "boundary_iou", "mAcc": "accuracy"}
    return {
        name: 100 * fmean(fmean(getattr(row, column) for row in fold) for fold in by_fold.values())
        for name, column in columns.items()
    }
