"""The result of an evaluation: all measured pictures, notes for the reader of the numbers, and metrics.json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, Final

from persam_dreambooth.errors import counted
from persam_dreambooth.evaluation.generation.class_leakage import ClassPicture
from persam_dreambooth.evaluation.generation.measures import MeasuredPicture
from persam_dreambooth.evaluation.generation.plan import Plan
from persam_dreambooth.evaluation.generation.table import FEW, MEASURES, Estimate, differences, estimates
from persam_dreambooth.segmentation import PresenceRule


@dataclass(frozen=True)
class Outcome:
    """The data of the report.

    Attributes:
        plan: the evaluation's inputs.
        measured: model's title -> its pictures, prompt by prompt.
        spreads: model's title -> each prompt's diversity, in [0, 2]; None with one picture per prompt.
        classes: model's title -> its pictures of the class; empty without a class prompt.
        photos: measure -> its mean for the photos themselves, each against the others.
        notes: notes for the reader, one sentence each.
    """

    plan: Plan
    measured: Mapping[str, Sequence[MeasuredPicture]]
    spreads: Mapping[str, Sequence[float | None]]
    classes: Mapping[str, Sequence[ClassPicture]]
    photos: Mapping[str, float]
    notes: Sequence[str] = field(default_factory=tuple)

    def values(self, title: str) -> dict[str, list[list[float]]]:
        """Return one model's values: measure -> a list of values per prompt."""
        prompts = by_prompt(self.measured[title])
        values = {
            name: [[picture.values[name] for picture in same if name in picture.values] for same in prompts]
            for name in MEASURES
        }
        values["diversity"] = [[] if spread is None else [spread] for spread in self.spreads[title]]
        # One prompt's pictures from different noise are independent, so that each counts like a prompt.
        pictures = self.classes[title]
        values["class_likeness"] = [[] if picture.likeness is None else [picture.likeness] for picture in pictures]
        values["class_leakage"] = [[] if picture.leakage is None else [picture.leakage] for picture in pictures]
        return {name: rows for name, rows in values.items() if any(rows)}


def by_prompt(measured: Sequence[MeasuredPicture]) -> list[list[MeasuredPicture]]:
    """Group pictures by prompt, in the order of the prompts."""
    return [list(same) for _, same in groupby(measured, key=lambda picture: picture.drawn.prompt)]


def notes(plan: Plan, measured: Mapping[str, Sequence[MeasuredPicture]]) -> list[str]:
    """Collect notes for the reader of the numbers."""
    said = [f"Left out: {reason}." for reason in plan.left_out]
    if not plan.dino:
        said.append("DINO's measures are left out: --dino_model none.")
    if plan.drawing.num_images == 1:
        said.append("With one image per prompt there is no diversity to measure.")
    elif plan.diversity == "lpips":
        said.append("Diversity is LPIPS (AlexNet), as the DreamBooth paper measures it.")
    else:
        encoder = "DINO" if plan.dino else "CLIP"
        said.append(f"Diversity is 1 - cosine of {encoder} features; for the paper's LPIPS: --diversity lpips.")
    if not plan.training_scenes:
        said.append("The photos' scene is not measured: give it as --training_scenes.")
    if not plan.class_prompt:
        said.append("Class leakage is not measured: give the class as --class_token.")
    rule = plan.job(plan.models[0]).rule
    if rule is None:
        said.append("There is no presence rule for this SAM: every mask counts as the subject's.")
    elif caveat := PresenceRule.load(rule).caveat:
        said.append(f"{caveat[0].upper()}{caveat[1:]}.")
    if len(measured) > 1 and len(plan.drawing.prompts) < FEW:
        asked = counted(len(plan.drawing.prompts), "prompt")
        said.append(f"{asked}: too few to call a difference significant; use at least {FEW}.")
    for title, of_model in measured.items():
        states = [picture.drawn.presence for picture in of_model]
        empty = sum("clip_i_inside" not in picture.values for picture in of_model)
        doubts = [f"{state} in {states.count(state)}" for state in ("unsure", "not found") if state in states]
        if doubts:
            said.append(f"{title}: the subject is {', '.join(doubts)} of {counted(len(of_model), 'image')}.")
        if empty:
            said.append(
                f"{title}: {counted(empty, 'image')} with an empty mask, so without measures of the subject alone."
            )
    return said


METRICS_NAME: Final = "metrics.json"


def metrics(outcome: Outcome) -> dict[str, Any]:
    """Return the whole report, JSON-serializable and reproducible for the same pictures."""
    first = outcome.plan.models[0].title
    values = {model.title: outcome.values(model.title) for model in outcome.plan.models}
    return {
        "evaluation": "generation",
        "settings": settings(outcome),
        "notes": list(outcome.notes),
        "measures": {name: asdict(measure) for name, measure in MEASURES.items()},
        "models": {title: _plain(estimates(of_model)) for title, of_model in values.items()},
        f"less {first}": {
            title: _plain(differences(of_model, values[first])) for title, of_model in values.items() if title != first
        },
        "photos": dict(outcome.photos),
        "prompts": _prompts(outcome),
        "class_pictures": {title: _class_rows(outcome, pictures) for title, pictures in outcome.classes.items()},
    }


def settings(outcome: Outcome) -> dict[str, Any]:
    """Return the settings under the names of the command's flags."""
    plan, drawing = outcome.plan, outcome.plan.drawing
    return {
        "model": {model.title: str(model.source) for model in plan.models},
        "prompts": len(drawing.prompts),
        "num_images": drawing.num_images,
        "seed": drawing.seed,
        **drawing.identity(plan.models[0].source),  # whose flags are all models'
        "photos": len(plan.photos),
        "class_prompt": plan.class_prompt,
        "class_images": plan.class_images,
        "sam": plan.sam,
        "clip_model": plan.clip,
        "dino_model": plan.dino or "none",
        "masc_model": plan.masc or "none",
        "training_scenes": list(plan.training_scenes),
        "scene_template": plan.scene_template,
        "diversity": plan.diversity,
    }


def _class_rows(outcome: Outcome, pictures: Sequence[ClassPicture]) -> list[dict[str, Any]]:
    """Return the class pictures' values, by seed."""
    return [
        {
            "file": picture.drawn.files.picture.relative_to(outcome.plan.output).as_posix(),
            "seed": picture.drawn.seed,
            "class_likeness": picture.likeness,
            "of_base_model": picture.of_base,
        }
        for picture in pictures
    ]


def _plain(estimated: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(estimate) for name, estimate in estimated.items()}


def _prompts(outcome: Outcome) -> list[dict[str, Any]]:
    """Return each picture's values, by model, then by prompt."""
    rows: list[dict[str, Any]] = []
    for title, of_model in outcome.measured.items():
        for same, spread in zip(by_prompt(of_model), outcome.spreads[title], strict=True):
            pictures = [
                {
                    "file": measured.drawn.files.picture.relative_to(outcome.plan.output).as_posix(),
                    "seed": measured.drawn.seed,
                    "presence": measured.drawn.presence,
                    "background_taken_for": measured.scene,
                    **measured.values,
                }
                for measured in same
            ]
            prompt = same[0].drawn.prompt
            row = {"model": title, "prompt": prompt.text, "scene": prompt.scene, "diversity": spread}
            rows.append(row | {"pictures": pictures})
    return rows
