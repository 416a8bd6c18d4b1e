"""The measures by name, and each model's estimates of them, per picture or per prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from persam_dreambooth.evaluation.generation.intervals import Estimate, difference, estimate


@dataclass(frozen=True)
class Measure:
    """A row of the report.

    Attributes:
        group: the question that it answers.
        title: display name.
        better: "higher" or "lower".
        text: description, one sentence.
        scale: "cosine" for numbers in about [-1, 1], "rate" for shares of pictures.
    """

    group: str
    title: str
    better: Literal["higher", "lower"]
    text: str
    scale: Literal["cosine", "rate"] = "cosine"

    def words(self, number: float) -> str:
        """Format a number for display: "0.812", "75.0 %"."""
        return f"{100 * number:.1f} %" if self.scale == "rate" else f"{number:.3f}"


_FIDELITY, _PROMPT, _LEAKAGE, _DIVERSITY = "Subject fidelity", "Prompt fidelity", "Background leakage", "Diversity"
MEASURES: Final = {
    "dino": Measure(
        _FIDELITY, "DINO", "higher", "mean cosine of DINO features with the photos; a leaked background adds to it"
    ),
    "dino_inside": Measure(_FIDELITY, "DINO, subject only", "higher", "the same of the subjects, cut out on grey"),
    "clip_i": Measure(
        _FIDELITY,
        "CLIP-I",
        "higher",
        "mean cosine of CLIP image features with the photos; a leaked background adds to it",
    ),
    "clip_i_inside": Measure(_FIDELITY, "CLIP-I, subject only", "higher", "the same of the subjects, cut out on grey"),
    "found": Measure(
        _FIDELITY, "subject recognised", "higher", "pictures in which the presence rule surely finds it", "rate"
    ),
    "clip_t": Measure(
        _PROMPT, "CLIP-T", "higher", "cosine of the picture's and the prompt's CLIP features, unique token left out"
    ),
    "scene": Measure(
        _PROMPT, "scene recognised", "higher", "pictures whose background CLIP takes for the prompt's scene", "rate"
    ),
    "leakage_dino": Measure(
        _LEAKAGE, "DINO, background only", "lower", "mean cosine with the photos' backgrounds, subjects masked out"
    ),
    "leakage_clip": Measure(
        _LEAKAGE, "CLIP, background only", "lower", "mean cosine with the photos' backgrounds, subjects masked out"
    ),
    "training_scene": Measure(
        _LEAKAGE,
        "training scene recognised",
        "lower",
        "pictures whose background CLIP takes for the photos' scene, though the prompt names another",
        "rate",
    ),
    "diversity": Measure(
        _DIVERSITY, "distance within a prompt", "higher", "mean distance between pictures of one prompt"
    ),
}
"""In the report's order; see `measures` for the definitions and their source."""

Values = Mapping[str, Sequence[Sequence[float]]]
"""Measure -> per prompt -> values: one per picture, or one for the prompt; undefined values are missing."""


def estimates(values: Values) -> dict[str, Estimate]:
    """Estimate each measure that has a value, in the report's order."""
    made = {name: estimate(values.get(name, ()), measure.scale == "rate") for name, measure in MEASURES.items()}
    return {name: estimated for name, estimated in made.items() if estimated is not None}


def differences(ours: Values, others: Values) -> dict[str, Estimate]:
    """Estimate each measure's paired difference, ours minus the others', in the report's order."""
    both = [name for name in MEASURES if name in ours and name in others]
    made = {name: difference(ours[name], others[name]) for name in both}
    return {name: estimated for name, estimated in made.items() if estimated is not None}


def interval(measure: Measure, estimated: Estimate) -> str:
    """Format an estimate as "0.812 [0.790, 0.835]", without brackets if it has no interval."""
    if estimated.low is None or estimated.high is None:
        return measure.words(estimated.mean)
    low, high = (measure.words(end).removesuffix(" %") for end in (estimated.low, estimated.high))
    return f"{measure.words(estimated.mean)} [{low}, {high}]"
