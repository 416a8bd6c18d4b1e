"""Calibrate the presence rule on photos with and without the subject, and measure its error rates.

The rule is fitted on one half of the subjects and evaluated on the other half.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.folders import PerSeg
from persam_dreambooth.evaluation.segmentation.metrics import overlap
from persam_dreambooth.evaluation.segmentation.protocols import Episode, read_checked
from persam_dreambooth.images import to_mask
from persam_dreambooth.segmentation import (
    ImageEncoder,
    OneShotSegmenter,
    Picture,
    Presence,
    PresenceCheck,
    PresenceMeter,
    PresenceRule,
    PresenceScores,
    Reference,
    Segmentation,
)
from persam_dreambooth.segmentation.presence import REASONS

FOUND_IOU = 0.5
"""Minimum IoU with the truth for a mask to count as the subject's."""
DOUBTED, LOST = 0.05, 0.01
"""Allowed shares of photos with the subject whose verdict is unsure or worse, and not found."""
RIDGE = 1e-3
"""L2 penalty on the weights of standardized scores, so that an uninformative score gets no weight."""


@dataclass(frozen=True)
class Trial:
    """One photo that is searched for the subject.

    Attributes:
        image: the photo.
        truth: (H, W) bool, the subject's true mask; None if it is not in the photo.
        group: kind of photo, for the report.
    """

    image: Picture
    truth: NDArray[np.bool_] | None
    group: str


Album = tuple[Reference, Iterable[Trial]]
"""A subject's reference, and the photos that are searched for it."""


def halves(benchmark: PerSeg, seed: int) -> tuple["_Albums", "_Albums"]:
    """Shuffle PerSeg's objects and split them in half: one to fit the rule, one to evaluate it.

    Each object is searched for in its own photos except the reference, and in as many photos of other objects, drawn
    at random.

    Raises:
        UserError: fewer than four objects, too few for two halves with other objects in each.
    """
    random = Random(seed)
    episodes = benchmark.draw(0, random, None)
    objects = sorted({episode.group for episode in episodes})
    if len(objects) < 4:
        raise UserError(f"the data has {len(objects)} objects, and a rule needs at least 4; give more")
    random.shuffle(objects)
    middle = len(objects) // 2
    first, second = (
        _Albums(benchmark, [episode for episode in episodes if episode.group in half], half, seed)
        for half in (objects[:middle], objects[middle:])
    )
    return first, second


class _Albums:
    """The albums of one half of the objects, read lazily.

    Args:
        benchmark: reads photos and masks.
        episodes: the episodes of these objects.
        objects: their names.
        seed: seed for drawing other objects' photos.
    """

    def __init__(self, benchmark: PerSeg, episodes: Sequence[Episode], objects: Sequence[str], seed: int) -> None:
        self._benchmark, self._episodes, self._objects, self._seed = benchmark, episodes, objects, seed

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Album]:
        random = Random(self._seed)
        for name in self._objects:
            own = [episode for episode in self._episodes if episode.group == name]
            others = [episode for episode in self._episodes if episode.group != name]
            chosen = own + random.sample(others, min(len(own), len(others)))
            trials = (self._trial(episode, name) for episode in chosen)
            yield Reference(*self._benchmark.read(own[0].references[0])), trials

    def _trial(self, episode: Episode, name: str) -> Trial:
        image, mask = read_checked(self._benchmark, episode.query)
        if episode.group != name:
            return Trial(image, None, "another object")
        return Trial(image, to_mask(mask), "the object")


def measure(
    segmenter: OneShotSegmenter, encoder: ImageEncoder | None, subjects: Iterable[Album]
) -> Iterator[tuple[bool, PresenceScores]]:
    """Yield for each trial whether its mask is the subject's, and its presence scores; empty masks are skipped."""
    for reference, trials in subjects:
        encoded = segmenter.encode_references([reference])
        subject = segmenter.personalize(reference, encoded=encoded)
        meter = PresenceMeter(segmenter, subject, [reference], encoder, encoded)
        for trial in trials:
            (photo,) = segmenter.encode([trial.image])
            found = segmenter.segment(photo, subject)
            scores = meter(trial.image, photo, found)
            if scores is not None:
                yield _group(trial, found)[0], scores


def fit_rule(
    measured: Sequence[tuple[bool, PresenceScores]], backbone: str, encoder: str | None, made_on: str | None = None
) -> PresenceRule:
    """Fit the logistic rule that best separates right masks from wrong ones, with equal total weight for both.

    Weights are constrained to be non-negative: a higher score must never count against the subject.
    `found_from` and `unsure_from` are the probabilities below which shares of `DOUBTED` and `LOST` of the right
    masks lie.

    Raises:
        UserError: all masks are right or none is, so there is nothing to separate.
    """
    names = [name for name in REASONS if name != "appearance" or encoder is not None]
    right = torch.tensor([is_right for is_right, _ in measured], dtype=torch.bool)
    if right.all() or not right.any():
        raise UserError(
            f"{int(right.sum())} of {len(right)} masks are right; fitting a presence rule needs both right and wrong "
            "ones: give more objects, or a SAM that finds some of them"
        )
    values = torch.tensor([[asdict(scores)[name] for name in names] for _, scores in measured])
    usual, spread = values[right].mean(0), values.std(0).clamp_min(1e-6)
    scaled = (values - usual) / spread
    free, bias = fit_logistic(scaled, right)
    logits = scaled @ free + bias
    found_from, unsure_from = torch.sigmoid(logits[right]).quantile(torch.tensor([DOUBTED, LOST])).tolist()
    weights = dict(zip(names, (free / spread).tolist(), strict=True))
    means = dict(zip(names, usual.tolist(), strict=True))
    return PresenceRule(weights, means, float(bias), found_from, unsure_from, backbone, encoder, made_on)


def fit_logistic(scaled: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a ridge logistic regression with non-negative weights and equal total weight of right and wrong masks.

    Args:
        scaled: (N, n) float32, standardized scores.
        right: (N,) bool.

    Returns:
        (n,) weights and a bias.
    """
    free = torch.zeros(scaled.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    share = torch.where(right, 0.5 / right.sum(), 0.5 / (~right).sum())
    optimizer = torch.optim.LBFGS([free, bias], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        weights = F.softplus(free)
        error = F.binary_cross_entropy_with_logits(scaled @ weights + bias, right.float(), reduction="none")
        loss: Tensor = (share * error).sum() + RIDGE * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return F.softplus(free).detach(), bias.detach()


@dataclass(frozen=True)
class Judgement:
    """The decision on one trial.

    Attributes:
        group: the trial's; "mask on something else" if the subject is there but the mask is not on it.
        right: True if the mask is the subject's.
        presence: the decision.
    """

    group: str
    right: bool
    presence: Presence


def judge(
    segmenter: OneShotSegmenter,
    rule: PresenceRule,
    encoder: ImageEncoder | None,
    subjects: Iterable[Album],
) -> Iterator[Judgement]:
    """Decide every trial as for a user's photo, trying several candidate masks."""
    for reference, trials in subjects:
        encoded = segmenter.encode_references([reference])
        subject = segmenter.personalize(reference, encoded=encoded)
        check = PresenceCheck(segmenter, subject, [reference], rule, encoder, encoded)
        for trial in trials:
            (photo,) = segmenter.encode([trial.image])
            found, presence = check.find(trial.image, photo)
            right, group = _group(trial, found)
            yield Judgement(group, right, presence)


def _group(trial: Trial, found: Segmentation) -> tuple[bool, str]:
    """Return True if the mask is the subject's, and the group it is reported in."""
    if trial.truth is None:
        return False, trial.group
    right = overlap(found.mask, trial.truth).iou >= FOUND_IOU
    return right, trial.group if right else "mask on something else"
