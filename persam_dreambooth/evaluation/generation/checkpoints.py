"""Evaluate the checkpoints of a training run beside its base model, and choose the best one."""

import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from persam_dreambooth import model_folder
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.choice import BASE
from persam_dreambooth.evaluation.generation.models import Model, digest_of
from persam_dreambooth.evaluation.generation.pictures import SETTINGS_NAME
from persam_dreambooth.evaluation.generation.plan import MODELS
from persam_dreambooth.evaluation.generation.running import GenerationReport, evaluate_generation
from persam_dreambooth.metrics_file import read_metrics
from persam_dreambooth.model_source import ModelSource

logger = logging.getLogger(__name__)
REPORT_FOLDER: Final = "checkpoint-report"
"""Default folder of the report, inside the run's folder, where the review page looks for it."""


def evaluate_checkpoints(
    run: Path | str,
    output: Path | str | None = None,
    *,
    steps: Sequence[int] = (),
    instance_data_dir: Path | str | None = None,
    instance_mask_dir: Path | str | None = None,
    **settings: Any,
) -> GenerationReport:
    """Generate with each checkpoint of a run and with its base model, measure all, and choose the best checkpoint.

    Args:
        run: the run's `output_dir`; it may still be training.
        output: folder for the report; None is `checkpoint-report` in the run's.
        steps: of the checkpoints to evaluate; none given is all.
        instance_data_dir: photos of the subject to compare with, such as some that were not trained on; None takes
            the run's own.
        instance_mask_dir: their masks.
        settings: as of `evaluate_generation`, whose defaults hold but for these: `prompts` is "scenes", five of
            DreamBench's; `unique_token`, `class_token`, `height` and `width` are the run's.

    Returns:
        As of `evaluate_generation`; `metrics` also has "checkpoints": the best, the reason, and each one's scores.

    Raises:
        UserError: as of `evaluate_generation`, or the run has no checkpoints, or its config does not name its photos.
    """
    run = Path(run)
    titles = checkpoint_titles(run, steps)
    config = model_folder.training_settings(run)
    photos, masks = (
        _given(name, value, config) for name, value in (("data", instance_data_dir), ("mask", instance_mask_dir))
    )
    side = config.get("resolution")
    usual: dict[str, Any] = {
        "prompts": "scenes",
        "unique_token": model_folder.trained_token(run),
        "class_token": model_folder.trained_class(run),
        "height": side,
        "width": side,
        "single_file_config": (model_folder.base_model(run) or {}).get("single_file_config"),
    }
    chosen = settings | {name: value for name, value in usual.items() if settings.get(name) is None}
    given = chosen.get("base_model")
    source = ModelSource(str(given or run), given, chosen["single_file_config"])
    base = source if given else source.trained()
    if base is None:
        raise UserError(f"{run} holds no {model_folder.CONFIG_NAME} that names the base model; give --base_model")
    if output is None:
        forget_outdated(run / REPORT_FOLDER, run, titles)
    if any((checkpoint_folder(run, title) / model_folder.EMA_NAME).exists() for title in titles):
        logger.warning("checkpoints are measured with their own weights, not with the moving average of --use_ema")
    return evaluate_generation(
        [Model(BASE, base), *(f"{title}={checkpoint_folder(run, title)}" for title in titles)],
        photos,
        masks,
        run / REPORT_FOLDER if output is None else output,
        checkpoint_steps=titles,
        **chosen,
    )


def checkpoint_titles(run: Path, steps: Sequence[int] = ()) -> dict[str, int]:
    """Return the title and the step of each checkpoint of a run and, if it is from another step, of its result.

    Args:
        run: the run's folder.
        steps: of the checkpoints wanted; none given is all.

    Raises:
        UserError: there are none, not one of a wanted step, or they are in a format that only training reads.
    """
    found = {
        folder.name.replace(model_folder.CHECKPOINT_PREFIX, "step-"): folder
        for folder in model_folder.checkpoints(run)
    }
    titles = {title: int(title.removeprefix("step-")) for title in found}
    for folder in found.values():
        if not model_folder.needs_base(folder) and not model_folder.trained_parts(folder):
            raise UserError(
                f"{folder} is in FSDP's own format, which only the training reads; evaluate the finished model with "
                "`persam-dreambooth evaluate generation`"
            )
    last = max(read_metrics(run), default=None)
    if model_folder.weights_digest(run) and last is not None and last not in titles.values():
        titles["result"] = last
    missing = [step for step in steps if step not in titles.values()]
    if missing or not titles:
        there = ", ".join(map(str, titles.values())) or "none; train with --checkpointing_steps"
        what = f"no checkpoint of step {missing[0]}" if missing else "no checkpoint"
        raise UserError(f"{run} holds {what} (there: {there}){'; choose among these' if titles else ''}")
    return {title: step for title, step in titles.items() if not steps or step in steps}


def checkpoint_folder(run: Path, title: str) -> Path:
    """Return the folder of a checkpoint or of the result, by its title in the report."""
    return run if title == "result" else run / title.replace("step-", model_folder.CHECKPOINT_PREFIX)


def forget_outdated(report: Path, run: Path, titles: Iterable[str]) -> None:
    """Delete the pictures of checkpoints, or of a result, that the run has replaced since they were drawn.

    Args:
        report: folder of an earlier evaluation of the run's checkpoints; it need not exist.
        run: the run's folder.
        titles: of its checkpoints.
    """
    for title in titles:
        drawn = report / MODELS / title
        try:
            before = json.loads((drawn / SETTINGS_NAME).read_text(encoding="utf-8"))["weights"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # never drawn, or damaged, which the evaluation refuses
        if before != digest_of(ModelSource(str(checkpoint_folder(run, title)))):
            shutil.rmtree(drawn)


def _given(kind: str, value: Path | str | None, config: dict[str, Any]) -> Path:
    """Return a folder that was given, or else the one that the run trained on."""
    name = f"instance_{kind}_dir"
    found = value or config.get(name)
    if not found:
        raise UserError(f"the run's {model_folder.CONFIG_NAME} names no {name}; give --{name}")
    return Path(found)
