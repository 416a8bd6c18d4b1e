"""What came out of an evaluation: every picture measured, and what the reader of the numbers should know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from persam_dreambooth.evaluation.generation.intervals import FEW
from persam_dreambooth.evaluation.generation.meter import MeasuredPicture
from persam_dreambooth.evaluation.generation.plan import Plan
from persam_dreambooth.evaluation.generation.table import MEASURES
from persam_dreambooth.segmentation import PresenceRule
from persam_dreambooth.words import counted


@dataclass(frozen=True)
class Outcome:
    """All that the report is made of.

    Attributes:
        plan: what was asked.
        measured: model's title -> its pictures, prompt by prompt.
        spreads: model's title -> each prompt's diversity, in [0, 2]; None with one picture a prompt.
        photos: measure -> its mean for the photos themselves, each against the others.
        notes: what the reader should know, one sentence each.
    """

    plan: Plan
    measured: Mapping[str, Sequence[MeasuredPicture]]
    spreads: Mapping[str, Sequence[float | None]]
    photos: Mapping[str, float]
    notes: Sequence[str] = field(default_factory=tuple)

    def values(self, title: str) -> dict[str, list[list[float]]]:
        """One model's values, measure -> prompt by prompt."""
        same = by_prompt(self.measured[title])
        made = {name: [[one.values[name] for one in row if name in one.values] for row in same] for name in MEASURES}
        made["diversity"] = [[] if spread is None else [spread] for spread in self.spreads[title]]
        return {name: rows for name, rows in made.items() if any(rows)}


def by_prompt(measured: Sequence[MeasuredPicture]) -> list[list[MeasuredPicture]]:
    """The pictures of each prompt, in the order of the prompts."""
    return [list(same) for _, same in groupby(measured, key=lambda one: one.drawn.prompt)]


def notes(plan: Plan, measured: Mapping[str, Sequence[MeasuredPicture]]) -> list[str]:
    """What the reader of the numbers should know."""
    said = [f"Left out: {reason}." for reason in plan.left_out]
    if not plan.dino:
        said.append("DINO's measures are left out: --dino_model none.")
    if plan.drawing.num_images == 1:
        said.append("With one picture a prompt there is no diversity to measure.")
    elif plan.diversity == "lpips":
        said.append("Diversity is LPIPS (AlexNet), as the DreamBooth paper measures it.")
    else:
        encoder = "DINO" if plan.dino else "CLIP"
        said.append(f"Diversity is 1 - cosine of {encoder} features; for the paper's LPIPS: --diversity lpips.")
    if not plan.training_scenes:
        said.append("Whether the photos' scene is recognised was not asked: --training_scenes says what it is.")
    rule = plan.job(plan.models[0]).rule
    if rule is None:
        said.append("There is no presence rule for this SAM: every mask was taken for the subject's.")
    elif caveat := PresenceRule.load(rule).caveat:
        said.append(f"{caveat[0].upper()}{caveat[1:]}.")
    if len(measured) > 1 and len(plan.drawing.prompts) < FEW:
        asked = counted(len(plan.drawing.prompts), "prompt")
        said.append(f"{asked}: too few to call a difference significant; ask at least {FEW}.")
    for title, of_model in measured.items():
        states = [one.drawn.presence for one in of_model]
        empty = sum("clip_i_inside" not in one.values for one in of_model)
        doubts = [f"{state} in {states.count(state)}" for state in ("unsure", "not found") if state in states]
        if doubts:
            said.append(f"{title}: the subject is {', '.join(doubts)} of {counted(len(of_model), 'picture')}.")
        if empty:
            said.append(
                f"{title}: {counted(empty, 'picture')} with an empty mask, so no measure of the subject alone."
            )
    return said
