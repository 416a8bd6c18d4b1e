"""Contents of metrics.json: the numbers, each picture's values, and the settings that produced them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from persam_dreambooth.evaluation.generation.intervals import Estimate
from persam_dreambooth.evaluation.generation.outcome import Outcome, by_prompt
from persam_dreambooth.evaluation.generation.table import MEASURES, differences, estimates

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
    }


def settings(outcome: Outcome) -> dict[str, Any]:
    """Return the settings under the names of the command's flags."""
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
