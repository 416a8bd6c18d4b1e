"""Run two trainings with the same settings in one process, and follow them with callbacks.

    python examples/train_from_python.py BASE_MODEL PHOTOS MASKS OUTPUT

compares plain DreamBooth with the masked loss: writes `OUTPUT/plain`, `OUTPUT/masked` and `OUTPUT/losses.csv`.
"""

import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import persam_dreambooth as pd


def main(base: str, photos: Path, masks: Path, output: Path, **settings: Any) -> dict[str, pd.TrainingResult]:
    """Train without and with masks; returns both results. `settings` are further keywords of `TrainingConfig`."""
    common: dict[str, Any] = {
        "pretrained_model_name_or_path": base,
        "instance_data_dir": photos,
        "instance_prompt": "a sks dog",
        "validation_prompt": "a sks dog in the snow",
        "use_lora": True,
        "learning_rate": 1e-4,
        "lr_warmup_steps": 0,
        "max_train_steps": 500,
        "seed": 0,
        **settings,
    }
    runs = {"plain": {"masked_loss": False}, "masked": {"instance_mask_dir": masks}}
    rows: list[dict[str, Any]] = []
    results = {}
    for name, own in runs.items():

        def keep_losses(step: int, losses: Mapping[str, float], run: str = name) -> None:
            rows.append({"run": run, "step": step, "loss": losses["loss"]})

        callbacks = pd.TrainingCallbacks(
            on_step=keep_losses,
            on_checkpoint=lambda folder: print(f"can be resumed from {folder}"),
            on_validation=lambda pictures: print(f"{len(pictures)} pictures, such as {pictures[0]}"),
        )
        config = pd.TrainingConfig(**common, **own, output_dir=output / name)
        results[name] = pd.train(config, callbacks=callbacks)
    with (output / "losses.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["run", "step", "loss"])
        writer.writeheader()
        writer.writerows(rows)
    return results


if __name__ == "__main__":
    model, *folders = sys.argv[1:]
    for run, result in main(model, *map(Path, folders)).items():
        print(f"{run}: {result.output_dir}, last loss {result.losses['loss']:.3f}")
