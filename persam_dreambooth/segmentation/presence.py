"""Presence check: decide whether a photo shows the subject at all.

SAM returns a mask for any prompt, even if the subject is absent. So each mask is measured by presence scores (module
`presence_scores`). A rule turns them into the probability that the mask shows the subject (logistic regression), and
two thresholds turn that into a verdict: found, unsure, or not found. The rule comes from `evaluate presence`; it is
valid only for the SAM that it was calibrated on.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Generic, Literal, Self, TypeVar

import torch

from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.appearance import ImageEncoder
from persam_dreambooth.segmentation.multi_mask import candidates
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.presence_scores import PresenceMeter, PresenceScores
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.types import EncodedPhoto, Picture, Reference, Segmentation

Verdict = Literal["found", "unsure", "not found"]
REASONS: Final = {
    "likeness": "no part of the photo resembles the subject as closely as the reference does",
    "contrast": "the mask resembles the subject hardly more than the rest of the photo does",
    "cycle": "the mask does not lead back to the subject in the reference",
    "score": "SAM's own predicted IoU of the mask is low",
    "appearance": "the masked area does not look like the subject",
}
"""Human-readable meaning of a low value of each presence score."""
DRAWINGS: Final = "drawings"
"""Prefix of `made_on` for a rule that was not calibrated on photographs."""
CANDIDATES: Final = 3
"""Candidate masks tried before a subject counts as unsure or not found; chosen by results on tinyworld."""


@dataclass(frozen=True)
class Presence:
    """The decision on one photo.

    Attributes:
        verdict: "found", "unsure" or "not found".
        probability: in [0, 1], the rule's probability that the subject is there.
        reason: one sentence on why the verdict is not "found"; None if it is.
    """

    verdict: Verdict
    probability: float
    reason: str | None


@dataclass(frozen=True)
class PresenceRule:
    """Logistic rule over presence scores: p = sigmoid(bias + sum of weight * (score - usual)).

    Attributes:
        weights: by presence score; scores without a weight are ignored.
        usual: mean of each of these scores over photos with the subject.
        bias: log-odds of a photo whose scores all have their usual value.
        found_from: minimum probability for "found".
        unsure_from: minimum probability for "unsure"; below it the verdict is "not found".
        backbone: checksum of the PerSAM it was calibrated on; the numbers are meaningless for any other.
        encoder: hub name or folder of the image encoder for the `appearance` score.
        made_on: the images it was calibrated on, "PerSeg" or "drawings (tinyworld)"; None if unknown.
    """

    weights: Mapping[str, float]
    usual: Mapping[str, float]
    bias: float
    found_from: float
    unsure_from: float
    backbone: str
    encoder: str | None = None
    made_on: str | None = None

    @property
    def caveat(self) -> str | None:
        """One-sentence warning for a rule that was not calibrated on photographs; None for any other rule."""
        if not (self.made_on or "").startswith(DRAWINGS):
            return None
        return f"the presence rule was made on {self.made_on}; on photographs its probabilities are a guess"

    def probability(self, scores: PresenceScores) -> float:
        """Probability in [0, 1] that the subject is there, with a prior of one half."""
        return float(torch.sigmoid(torch.tensor(self.bias + sum(self.contributions(scores).values()))))

    def contributions(self, scores: PresenceScores) -> dict[str, float]:
        """Contribution of each presence score to the log-odds."""
        values = asdict(scores)
        return {name: weight * (values[name] - self.usual[name]) for name, weight in self.weights.items()}

    def decide(self, scores: PresenceScores | None) -> Presence:
        """Decide on a mask from its presence scores; None stands for an empty mask."""
        if scores is None:
            return Presence("not found", 0.0, "the mask is empty")
        probability = self.probability(scores)
        if probability >= self.found_from:
            return Presence("found", probability, None)
        contributions, values = self.contributions(scores), asdict(scores)
        worst = min(contributions, key=lambda name: contributions[name])
        value, usual = values[worst], self.usual[worst]
        if worst == "score":  # a predicted IoU can exceed 1; show at most 1
            value, usual = min(value, 1), min(usual, 1)
        reason = f"{REASONS[worst]} ({worst} {value:.2f}, usually {usual:.2f})"
        return Presence("unsure" if probability >= self.unsure_from else "not found", probability, reason)

    def save(self, path: Path | str) -> None:
        """Write the rule as JSON."""
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a rule written by `save`; an encoder folder is first searched for next to the file.

        Raises:
            UserError: no such file, or not a presence rule.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"no presence rule at {path}; `persam-dreambooth evaluate presence` makes one")
        try:
            rule = cls(**json.loads(path.read_text(encoding="utf-8")))
            known = rule.weights.keys() == rule.usual.keys() and rule.weights.keys() <= REASONS.keys()
            numbers = [*rule.weights.values(), *rule.usual.values(), rule.bias, rule.found_from, rule.unsure_from]
            texts = [rule.backbone, rule.encoder or "", rule.made_on or ""]
            if (
                not known
                or not all(isinstance(number, int | float) for number in numbers)
                or not all(isinstance(text, str) for text in texts)
            ):
                raise ValueError("its keys or values are not those of a rule")
        except (AttributeError, RecursionError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is not a presence rule ({error}); `persam-dreambooth evaluate presence` makes one"
            ) from error
        beside = path.parent / (rule.encoder or "")
        return replace(rule, encoder=str(beside)) if rule.encoder and beside.is_dir() else rule


Decision = TypeVar("Decision", bound=Presence | None, covariant=True)


class MaskCheck(ABC, Generic[Decision]):
    """Decides whether masks are of the subject that they were found for.

    Args:
        segmenter: the method that segments.
        subject: the subject to search for.
    """

    def __init__(self, segmenter: OneShotSegmenter, subject: Subject) -> None:
        self._segmenter, self._subject = segmenter, subject

    @abstractmethod
    def __call__(self, image: Picture, photo: EncodedPhoto, found: Segmentation) -> Decision:
        """Decide on one mask; arguments as in `PresenceMeter.__call__`. None leaves it undecided."""

    def find(self, image: Picture, photo: EncodedPhoto, at_most: int = CANDIDATES) -> tuple[Segmentation, Decision]:
        """Segment the subject; try further candidate masks until one is found or left undecided.

        Args:
            image: the photo.
            photo: the same photo from `OneShotSegmenter.encode`.
            at_most: maximum number of candidates.

        Returns:
            The first mask that is "found" or undecided, else the most probable one; and the decision on it.
        """
        rejected: list[tuple[float, Segmentation, Decision]] = []
        for found in candidates(self._segmenter, photo, self._subject, at_most):
            presence = self(image, photo, found)
            if presence is None or presence.verdict == "found":
                return found, presence
            rejected.append((presence.probability, found, presence))
        return max(rejected, key=lambda candidate: candidate[0])[1:]


class PresenceCheck(MaskCheck[Presence]):
    """Decides by a rule whether a subject is in the photos it was segmented in.

    Args:
        segmenter: the method that segments.
        subject: the subject to search for.
        references: the photos and masks that the subject was made from.
        rule: weights and thresholds of the presence scores.
        encoder: image encoder for the `appearance` score; required if the rule uses it.
        encoded: the references from `OneShotSegmenter.encode_references`, if already available.

    Raises:
        UserError: the rule was calibrated on another SAM, or it uses `appearance` and no encoder was given.
    """

    def __init__(
        self,
        segmenter: OneShotSegmenter,
        subject: Subject,
        references: Sequence[Reference],
        rule: PresenceRule,
        encoder: ImageEncoder | None = None,
        encoded: Sequence[EncodedPhoto] | None = None,
    ) -> None:
        if rule.backbone != segmenter.calibration:
            raise UserError(
                f"this presence rule was calibrated on {rule.backbone}, not on {segmenter.calibration} "
                f"({segmenter.name}); make one with `persam-dreambooth evaluate presence` for this model, method "
                "and crops"
            )
        if "appearance" in rule.weights and encoder is None:
            raise UserError(f"this presence rule uses the appearance score; pass its image encoder, {rule.encoder}")
        super().__init__(segmenter, subject)
        self._rule = rule
        self._measure = PresenceMeter(segmenter, subject, references, encoder, encoded)

    def __call__(self, image: Picture, photo: EncodedPhoto, found: Segmentation) -> Presence:
        """Decide on one photo; arguments as in `PresenceMeter.__call__`."""
        return self._rule.decide(self._measure(image, photo, found))
