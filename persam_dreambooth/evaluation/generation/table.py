"""The measures by name, and each model's estimates of them: means over prompts with bootstrap intervals.

The bootstrap is over prompts, because pictures of one prompt are correlated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

DRAWS: Final = 10_000
Z: Final = 1.959964  # the normal distribution's 97.5 % point
FEW: Final = 8
"""With fewer prompts than this, a bootstrap interval is too narrow to call a difference significant."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        mean: mean over prompts of each prompt's mean over its pictures.
        low, high: 2.5th and 97.5th percentile of the mean when prompts are resampled with replacement. None for a
            single prompt, or if all prompts have the same mean, when a bootstrap is uninformative; a share of none
            or all pictures has Wilson's interval instead.
        prompts: number of prompts with a value.
        values: total number of values.
    """

    mean: float
    low: float | None
    high: float | None
    prompts: int
    values: int


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212), never of length 0.

    Args:
        hits: number of hits.
        count: number of trials, at least 1.
    """
    share, weight = hits / count, Z * Z / count
    middle = (share + weight / 2) / (1 + weight)
    half = Z / (1 + weight) * (share * (1 - share) / count + weight / (4 * count)) ** 0.5
    # For no hits or all hits, one end is the share itself except for rounding.
    return middle - half if hits else 0.0, middle + half if hits < count else 1.0


def estimate(by_prompt: Sequence[Sequence[float]], share: bool = False) -> Estimate | None:
    """Compute the mean and percentile bootstrap interval (Efron 1979), deterministic for the same values.

    Args:
        by_prompt: each prompt's values; prompts without values are left out.
        share: the values are 0 or 1, and their mean is a share of pictures.

    Returns:
        The estimate; None if no prompt has a value.
    """
    means = np.array([np.mean(values) for values in by_prompt if len(values)])
    if not len(means):
        return None
    low = high = None
    values = sum(map(len, by_prompt))
    if share and means.min() == means.max() and means[0] in (0, 1):
        low, high = wilson(int(means[0]) * values, values)
    elif len(means) > 1 and means.max() - means.min() > 1e-9:  # beyond rounding errors
        picks = np.random.default_rng(0).integers(len(means), size=(DRAWS, len(means)))
        low, high = (float(end) for end in np.percentile(means[picks].mean(axis=1), [2.5, 97.5]))
    return Estimate(float(means.mean()), low, high, len(means), values)


def difference(ours: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> Estimate | None:
    """Estimate the paired difference, ours minus others, between two models on the same prompts.

    Args:
        ours, others: values of the same prompts in the same order; prompts without values on either side are left
            out.
    """
    pairs = zip(ours, others, strict=True)
    return estimate([[float(np.mean(mine) - np.mean(theirs))] for mine, theirs in pairs if len(mine) and len(theirs)])


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
_CLASS: Final = "Class leakage"
MEASURES: Final = {
    "dino": Measure(
        _FIDELITY, "DINO", "higher", "mean cosine of DINO features with the photos; a leaked background adds to it"
    ),
    "dino_inside": Measure(_FIDELITY, "DINO, subject only", "higher", "the same for the subjects, cut out on grey"),
    "clip_i": Measure(
        _FIDELITY,
        "CLIP-I",
        "higher",
        "mean cosine of CLIP image features with the photos; a leaked background adds to it",
    ),
    "clip_i_inside": Measure(
        _FIDELITY, "CLIP-I, subject only", "higher", "the same for the subjects, cut out on grey"
    ),
    "masc": Measure(
        _FIDELITY,
        "MaSC",
        "higher",
        "mean, over the patches of a photo's subject, of the highest cosine with a patch of the image (SigLIP 2)",
    ),
    "found": Measure(
        _FIDELITY, "subject recognized", "higher", "share of images that the presence rule rates as found", "rate"
    ),
    "clip_t": Measure(
        _PROMPT, "CLIP-T", "higher", "cosine of the image's and the prompt's CLIP features, without the unique token"
    ),
    "scene": Measure(
        _PROMPT,
        "scene recognized",
        "higher",
        "share of images whose background CLIP takes for the prompt's scene",
        "rate",
    ),
    "leakage_dino": Measure(
        _LEAKAGE, "DINO, background only", "lower", "mean cosine with the photos' backgrounds, subjects masked out"
    ),
    "leakage_clip": Measure(
        _LEAKAGE, "CLIP, background only", "lower", "mean cosine with the photos' backgrounds, subjects masked out"
    ),
    "training_scene": Measure(
        _LEAKAGE,
        "training scene recognized",
        "lower",
        "share of images whose background CLIP takes for the photos' scene, though the prompt names another",
        "rate",
    ),
    "class_likeness": Measure(
        _CLASS,
        "subject in class images",
        "lower",
        "cosine of images of the class, generated without the unique token, with the photos, subjects only (DINO's "
        "or else CLIP's features); interval over the images",
    ),
    "class_leakage": Measure(
        _CLASS,
        "the same less the base model's",
        "lower",
        "how much more they look like the subject than the base model's images from the same noise",
    ),
    "diversity": Measure(
        _DIVERSITY, "distance within a prompt", "higher", "mean distance between images of one prompt"
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
