"""Choose the checkpoint that is most faithful to the subject with the least background leakage and class leakage.

Each of the three measures is put on a scale from 0 (the base model) to 1 (the photos themselves), so that they are
comparable. The score is the fidelity minus both leakages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

BASE: Final = "base"
"""Title of the untrained model."""
SMALLEST: Final = 0.01
"""Minimum length of the scale, in cosine: a smaller distance of the photos from the base model is meaningless."""


@dataclass(frozen=True)
class CheckpointScore:
    """A checkpoint on the scale from the base model (0) to the photos (1).

    Attributes:
        step: optimizer steps.
        title: of the checkpoint, in the report.
        fidelity: of the subject, cut out.
        background: leakage of the photos' background.
        class_leakage: of the subject into pictures of the class; None if it was not measured.
    """

    step: int
    title: str
    fidelity: float
    background: float
    class_leakage: float | None

    @property
    def score(self) -> float:
        """Fidelity minus both leakages; leakage below the base model's is not rewarded."""
        return self.fidelity - max(0.0, self.background) - max(0.0, self.class_leakage or 0.0)


@dataclass(frozen=True)
class Choice:
    """The best checkpoint of a run.

    Attributes:
        best: the checkpoint with the highest score; the earliest on a tie.
        scores: of all checkpoints, by step.
        reason: why, in a sentence.
    """

    best: CheckpointScore
    scores: Sequence[CheckpointScore]
    reason: str

    def plain(self) -> dict[str, Any]:
        """Return the choice for `metrics.json`."""
        scores = [asdict(score) | {"score": score.score} for score in self.scores]
        return {"best": self.best.title, "step": self.best.step, "reason": self.reason, "scores": scores}


def on_scale(value: float, base: float, photos: float) -> float:
    """Put a cosine on the scale on which the base model's is 0 and the photos' own 1."""
    return (value - base) / max(SMALLEST, photos - base)


def choose(metrics: Mapping[str, Any], steps: Mapping[str, int]) -> Choice | None:
    """Score the checkpoints of an evaluation and choose one.

    Args:
        metrics: content of `metrics.json`, with the base model under the title "base".
        steps: title -> step of each checkpoint.

    Returns:
        The choice; None if no checkpoint has a value, since the subject's mask is empty in all pictures.
    """
    models, photos = metrics["models"], metrics["photos"]
    encoder = "dino" if "leakage_dino" in models[BASE] else "clip"
    inside, outside = ("dino_inside" if encoder == "dino" else "clip_i_inside"), f"leakage_{encoder}"

    def scaled(title: str, measure: str, of_photos: str) -> float | None:
        if measure not in models[title] or measure not in models[BASE]:
            return None
        # A single photo has no other to be compared with; a copy of it has the cosine 1.
        return on_scale(models[title][measure]["mean"], models[BASE][measure]["mean"], photos.get(of_photos, 1.0))

    scores = []
    for title, step in sorted(steps.items(), key=lambda item: item[1]):
        fidelity, background = scaled(title, inside, inside), scaled(title, outside, outside)
        if fidelity is not None and background is not None:
            own = scaled(title, "class_likeness", inside)
            scores.append(CheckpointScore(step, title, fidelity, background, own))
    if not scores:
        return None
    best = max(scores, key=lambda score: (score.score, -score.step))
    return Choice(best, scores, _reason(best, scores))


def _reason(best: CheckpointScore, scores: Sequence[CheckpointScore]) -> str:
    """Explain in one sentence why a checkpoint is the best, and name the second best."""
    own = "" if best.class_leakage is None else f", its images of the class at {best.class_leakage:.0%}"
    words = (
        f"{best.title} is the best of {len(scores)}: on a scale from the base model (0 %) to the photos (100 %), its "
        f"subject is at {best.fidelity:.0%}, its background at {best.background:.0%}{own}; the score, the subject "
        f"minus the leakages, is {best.score:.2f}"
    )
    others = sorted((score for score in scores if score is not best), key=lambda score: -score.score)
    if others:
        words += f"; the next is {others[0].title} at {others[0].score:.2f}"
    if best.score <= 0:
        words += f"; it leaks as much as it has learned: train {_cure(best)}, or at a lower --learning_rate"
    return words


def _cure(best: CheckpointScore) -> str:
    """Return the flags against the larger of the two leakages."""
    if (best.class_leakage or 0.0) > best.background:
        return "with --with_prior_preservation"
    return "with masks and a larger --background_prior_weight"
