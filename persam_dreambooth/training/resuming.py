"""Which run an output folder holds, and from where a new one goes on."""

from pathlib import Path

import yaml

from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import CONFIG_NAME
from persam_dreambooth.photos import files
from persam_dreambooth.training import checkpoints, dataset_copy, instances
from persam_dreambooth.training.config import TrainingConfig


def choose_start(config: TrainingConfig) -> Path | None:
    """Refuse an output folder that holds another run; returns the checkpoint to go on from."""
    output = Path(config.output.output_dir)
    files.check_output_folder(output)
    if config.output.resume_from_checkpoint:
        chosen = checkpoints.choose_checkpoint(output, config.output.resume_from_checkpoint)
        _check_same_weights(config, output / CONFIG_NAME)
        return chosen
    # Masks and copied photos of an interrupted run are no loss to go on from; anything else might be.
    held = [path.name for path in output.iterdir()] if output.exists() else []
    if set(held) - {instances.SEGMENTATION_FOLDER, dataset_copy.COPY_FOLDER}:
        go_on = "go on with it by --resume_from_checkpoint latest" if checkpoints.checkpoints(output) else "delete it"
        raise UserError(
            f"--output_dir {output} holds another run ({', '.join(sorted(held)[:3])}); "
            f"choose another folder, or {go_on}"
        )
    return None


def _check_same_weights(config: TrainingConfig, saved: Path) -> None:
    """Refuse to go on from a checkpoint whose run trained other weights than these flags say."""
    if not saved.exists():
        return
    try:
        before = dict(yaml.safe_load(saved.read_text(encoding="utf-8")))
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{saved} is damaged; delete it to go on with these flags") from error
    now = config.flat()
    for name in ("use_lora", "rank", "lora_alpha", "use_dora", "train_text_encoder"):
        if before.get(name) != now[name]:
            raise UserError(
                f"--resume_from_checkpoint: the run had {name} {before.get(name)}, not {now[name]}; use its flags "
                f"(--config {saved})"
            )
