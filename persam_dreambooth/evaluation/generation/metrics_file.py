"""metrics.json: the numbers, each picture's values, and how all of it was made."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from persam_dreambooth.evaluation.generation.intervals import Estimate
from persam_dreambooth.evaluation.generation.outcome import Outcome, by_prompt
from persam_dreambooth.evaluation.generation.table import MEASURES, differences, estimates

METRICS_NAME: Final = "metrics.json"


def metrics(outcome: Outcome) -> dict[str, Any]:
    """Everything, JSON-able; the same for the same pictures, whenever they were measured."""
    first = outcome.plan.models[0].title
    values = {model.title: outcome.values(model.title) for model in outcome.plan.models}
    return {
        "evaluation": "generation",
        "settings": settings(outcome),
        "notes": list(outcome.notes),
        "measures": {name: asdict(one) for name, one in MEASURES.items()},
        "models": {title: _plain(estimates(one)) for title, one in values.items()},
        f"less {first}": {
            title: _plain(differences(one, values[first])) for title, one in values.items() if title != first
        },
        "photos": dict(outcome.photos),
        "prompts": _prompts(outcome),
    }


def settings(outcome: Outcome) -> dict[str, Any]:
    """What was asked, by the command's flags."""
    plan, drawing = outcome.plan, outcome.plan.drawing
    return {
        "model": {model.title: model.source for model in plan.models},
        "prompts": len(drawing.prompts),
        "num_images": drawing.num_images,
        "seed": drawing.seed,
        **drawing.identity(),
        "photos": len(plan.photos),
        "sam": plan.sam,
        "clip_model": plan.clip,
        "dino_model": plan.dino or "none",
        "training_scenes": list(plan.training_scenes),
        "scene_template": plan.scene_template,
        "diversity": plan.diversity,
    }


def _plain(estimated: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(one) for name, one in estimated.items()}


def _prompts(outcome: Outcome) -> list[dict[str, Any]]:
    """Prompt by prompt, model by model, each picture's values."""
    rows: list[dict[str, Any]] = []
    for title, of_model in outcome.measured.items():
        for same, spread in zip(by_prompt(of_model), outcome.spreads[title], strict=True):
            pictures = [
                {
                    "file": one.drawn.files.picture.relative_to(outcome.plan.output).as_posix(),
                    "seed": one.drawn.seed,
                    "presence": one.drawn.presence,
                    "background_taken_for": one.scene,
                    **one.values,
                }
                for one in same
            ]
            prompt = same[0].drawn.prompt
            asked = {"model": title, "prompt": prompt.text, "scene": prompt.scene, "diversity": spread}
            rows.append(asked | {"pictures": pictures})
    return rows
