"""Whether the subject is in a photo at all: found, unsure or not found, with a probability and the reason.

SAM gives a mask for any prompt, also where the subject is not. A logistic rule weighs the signals that tell
the two apart; its thresholds say how many photos of the subject may be doubted. Both belong to the SAM that
the rule was calibrated on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal, Self

import torch

from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.appearance import ImageEncoder
from persam_dreambooth.segmentation.multi_mask import looks
from persam_dreambooth.segmentation.persam import PerSAM
from persam_dreambooth.segmentation.presence_scores import SignalMeter, Signals
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.types import EncodedPhoto, Picture, Reference, Segmentation

Verdict = Literal["found", "unsure", "not found"]
REASONS: Final = {
    "likeness": "no place is as like the subject as the reference is",
    "contrast": "the place found is hardly more like the subject than the rest of the photo",
    "cycle": "what was found does not lead back to the subject in the reference",
    "score": "SAM itself thinks little of the mask",
    "appearance": "what the mask cuts out does not look like the subject",
}
"""What a low value of each signal means, for people."""
DRAWINGS: Final = "drawings"
"""How `made_on` begins for a rule that was not made on photographs."""
LOOKS: Final = 3
"""Places that are looked at before a subject counts as unsure or not found; chosen on tinyworld, by what it finds."""


@dataclass(frozen=True)
class Presence:
    """The decision on one photo.

    Attributes:
        verdict: "found", "unsure" or "not found".
        probability: in [0, 1], what the rule made of the signals.
        reason: why it is not "found", one sentence; None where it is.
    """

    verdict: Verdict
    probability: float
    reason: str | None


@dataclass(frozen=True)
class PresenceRule:
    """A logistic rule over signals: p = sigmoid(bias + sum of weight * (signal - usual)).

    Attributes:
        weights: by signal; only those named are read.
        usual: the same signals' means over photos with the subject.
        bias: the log-odds of a photo whose signals are all as usual.
        found_from: probability from which a photo counts as found.
        unsure_from: probability from which it counts as unsure; below, as not found.
        backbone: checksum of the PerSAM that it was calibrated on; with another, the numbers mean nothing.
        encoder: hub name or folder of the image encoder that `appearance` is measured with.
        made_on: the pictures that it was calibrated on, "PerSeg" or "drawings (tinyworld)"; None where unknown.
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
        """What its user should know of a rule that has seen no photograph, one sentence; None for any other."""
        if not (self.made_on or "").startswith(DRAWINGS):
            return None
        return f"the presence rule was made on {self.made_on}; on photographs its probabilities are a guess"

    def probability(self, signals: Signals) -> float:
        """That the subject is there, in [0, 1], for as many photos without it as with it."""
        return float(torch.sigmoid(torch.tensor(self.bias + sum(self.pulls(signals).values()))))

    def pulls(self, signals: Signals) -> dict[str, float]:
        """By how much each signal moves the log-odds."""
        values = asdict(signals)
        return {name: weight * (values[name] - self.usual[name]) for name, weight in self.weights.items()}

    def decide(self, signals: Signals | None) -> Presence:
        """The verdict on a mask with these signals; None stands for an empty one."""
        if signals is None:
            return Presence("not found", 0.0, "the mask is empty")
        probability = self.probability(signals)
        if probability >= self.found_from:
            return Presence("found", probability, None)
        pulls, values = self.pulls(signals), asdict(signals)
        worst = min(pulls, key=lambda name: pulls[name])
        value, usual = values[worst], self.usual[worst]
        if worst == "score":  # an estimate of an IoU, for people as high as one can be
            value, usual = min(value, 1), min(usual, 1)
        reason = f"{REASONS[worst]} ({worst} {value:.2f}, usually {usual:.2f})"
        return Presence("unsure" if probability >= self.unsure_from else "not found", probability, reason)

    def save(self, path: Path | str) -> None:
        """Write the rule as JSON."""
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote; an encoder's folder is looked for beside the file first.

        Raises:
            UserError: no file, or not such a rule.
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
                raise ValueError("not the keys of a rule")
        except (AttributeError, RecursionError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is no presence rule ({error}); `persam-dreambooth evaluate presence` makes one"
            ) from error
        beside = path.parent / (rule.encoder or "")
        return replace(rule, encoder=str(beside)) if rule.encoder and beside.is_dir() else rule


class PresenceCheck:
    """Decide whether a subject is in the photos in which it was segmented.

    Args:
        persam: what segmented.
        subject: who was looked for.
        references: the photos and masks that the subject was made of.
        rule: how signals are weighed.
        encoder: measures `appearance`; needed when the rule reads it.
        encoded: what `PerSAM.encode_references` made of the references, where that is at hand.

    Raises:
        UserError: the rule was calibrated on another SAM, or reads `appearance` and there is no encoder.
    """

    def __init__(
        self,
        persam: PerSAM,
        subject: Subject,
        references: Sequence[Reference],
        rule: PresenceRule,
        encoder: ImageEncoder | None = None,
        encoded: Sequence[EncodedPhoto] | None = None,
    ) -> None:
        if rule.backbone != persam.checksum:
            raise UserError(
                f"this presence rule was calibrated on a SAM with the weights {rule.backbone}, not on "
                f"{persam.backbone.name} ({persam.checksum}); make one with `persam-dreambooth evaluate presence`"
            )
        if "appearance" in rule.weights and encoder is None:
            raise UserError(f"this presence rule reads the subject's appearance; give it the encoder {rule.encoder}")
        self._rule, self._persam, self._subject = rule, persam, subject
        self._measure = SignalMeter(persam, subject, references, encoder, encoded)

    def __call__(self, image: Picture, photo: EncodedPhoto, found: Segmentation) -> Presence:
        """Decide on one photo; arguments as `SignalMeter.__call__`."""
        return self._rule.decide(self._measure(image, photo, found))

    def find(self, image: Picture, photo: EncodedPhoto, at_most: int = LOOKS) -> tuple[Segmentation, Presence]:
        """Segment the subject, and look elsewhere too as long as what was found is not surely the subject.

        Args:
            image: the photo.
            photo: what `PerSAM.encode` made of it.
            at_most: places to look at.

        Returns:
            Of all the masks the likeliest one, and the decision on it.
        """
        answers: list[tuple[Segmentation, Presence]] = []
        for found in looks(self._persam, photo, self._subject, at_most):
            answers.append((found, self(image, photo, found)))
            if answers[-1][1].verdict == "found":
                break
        return max(answers, key=lambda answer: answer[1].probability)
