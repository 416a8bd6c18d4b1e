"""Decide from the output folder whether a run resumes, starts from scratch, or is refused."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from persam_dreambooth.atomic_io import UNFINISHED
from persam_dreambooth.errors import UserError, listed
from persam_dreambooth.flag_values import with_new_names
from persam_dreambooth.flags import flags_of, setting_text
from persam_dreambooth.model_folder import CONFIG_NAME, PIPELINE_INDEX, needs_base
from persam_dreambooth.photos import files
from persam_dreambooth.text_files import read_yaml
from persam_dreambooth.training import optimizer_args
from persam_dreambooth.training.config import GROUPS, OutputConfig, TrainingConfig, ValidationConfig
from persam_dreambooth.training.data import dataset_copy, mask_folders, mask_report
from persam_dreambooth.training.runtime import checkpoint

HELD = (
    *("use_lora", "rank", "lora_alpha", "use_dora", "train_text_encoder", "use_ema", "optimizer", "seed_each_batch"),
    *("seed", "network_weights", "lora_layers", "lora_blocks", "adapter_type", "train_text_encoder_ti"),
    "enable_t5_ti",
    *("token_abstraction", "num_new_tokens_per_abstraction", "initializer_concept"),
)
"""Flags that must not change on resume: a checkpoint's contents, its weights or the count of its batches depend on
them."""
DRAWN = ("validation_prompt", "validation_prompts_file", "num_validation_images")
"""Flags of the validation images, whose measures can be compared only if these stay the same."""
LOCK_NAME = ".training.lock"
"""Held by the run that writes into the folder; deleted when it ends."""


def choose_start(config: TrainingConfig) -> Path | None:
    """Choose the checkpoint to resume from, and refuse an output folder that holds another run.

    Returns:
        The checkpoint to resume from; None to start from scratch, which `--resume_from_checkpoint latest` also
        does if this same run was interrupted before its first checkpoint.

    Raises:
        UserError: the folder holds another run, or no such checkpoint.
    """
    output = Path(config.output.output_dir)
    files.check_output_folder(output)
    # Masks and copied photos of an interrupted run, and the picture of a dry run, can be reused or replaced; anything
    # else might be lost.
    there = {path.name for path in output.iterdir()} if output.exists() else set()
    kept = {mask_folders.SEGMENTATION_FOLDER, dataset_copy.COPY_FOLDER, mask_report.MASKS_NAME, LOCK_NAME}
    held = sorted(name for name in there - kept if not name.startswith(UNFINISHED))
    wanted = config.output.resume_from_checkpoint
    chosen = checkpoint.choose_checkpoint(output, wanted) if wanted else None
    if chosen is not None:
        before = _saved(config)
        _check_same(before, config, HELD)
        _check_optimizer(before, config)
        _check_groups(before, config)
        _check_base(before, config)
        _check_measures(before, config)
    elif wanted and CONFIG_NAME in held:
        if _is_over(output):
            raise UserError(
                f"--resume_from_checkpoint latest: {output} holds a finished model and no checkpoint to resume from; "
                "choose another --output_dir"
            )
        other = {flag.name for group in (ValidationConfig, OutputConfig) for flag in fields(group)}
        before = _saved(config)
        _check_same(before, config, (name for name in config.flat() if name not in other))
        _check_measures(before, config)
    elif held:
        names = listed(held)
        if CONFIG_NAME not in held:
            raise UserError(f"--output_dir {output} holds other files ({names}); choose a new or an empty folder")
        remedy = "" if _is_over(output) else ", or resume it with --resume_from_checkpoint latest"
        raise UserError(f"--output_dir {output} holds another run ({names}); choose another folder{remedy}")
    return chosen


@contextmanager
def alone(config: TrainingConfig, start: Path | None) -> Iterator[None]:
    """Create the output folder and lock it against other runs; it is released even if the process is killed.

    Args:
        config: the run's.
        start: what `choose_start` returned; checked again under the lock.

    Raises:
        UserError: another run is using the folder, or has written into it meanwhile.
    """
    output = Path(config.output.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / LOCK_NAME)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(
            f"another run is using --output_dir {output}; wait until it ends, or choose another folder"
        ) from error
    try:
        wanted = config.output.resume_from_checkpoint
        now = checkpoint.choose_checkpoint(output, wanted) if wanted else None
        if now != start or (not wanted and (output / CONFIG_NAME).exists()):
            raise UserError(f"another run has written into --output_dir {output} in the meantime; start again")
        yield
    finally:
        (output / LOCK_NAME).unlink(missing_ok=True)
        lock.release()


def changed_flags(config: TrainingConfig) -> str:
    """Name the flags that differ from those of the run in the output folder, with both values; "" if none does."""
    before, now = _saved(config), config.to_save()
    return ", ".join(
        f"--{name} {setting_text(value)} (was {setting_text(before[name])})"
        for name, value in now.items()
        if name in before and before[name] != value and name != "resume_from_checkpoint"
    )


def _is_over(output: Path) -> bool:
    """Return whether a run has saved its model and holds no checkpoint to resume from."""
    saved = needs_base(output) or (output / PIPELINE_INDEX).exists()
    return saved and not checkpoint.checkpoints(output)


def _check_same(before: dict[str, Any], config: TrainingConfig, names: Iterable[str]) -> None:
    """Refuse to resume a run if any of these flags had another value `before`."""
    now = config.to_save()
    # A flag that the saved run did not know yet effectively had its default.
    defaults = {flag.name: flag.default for flag in flags_of(*GROUPS)}
    for name in names if before else ():
        was = before.get(name, defaults[name])
        if was != now[name]:
            raise _other(config, name, was, now[name])


def _check_optimizer(before: dict[str, Any], config: TrainingConfig) -> None:
    """Refuse to resume with other settings of the optimizer where its state depends on them."""
    was, now = before.get("optimizer_args", {}), config.optimization.optimizer_args
    for name in optimizer_args.FIXED if before else ():
        if was.get(name) != now.get(name):
            raise _other(config, "optimizer_args", was, now)


def _check_groups(before: dict[str, Any], config: TrainingConfig) -> None:
    """Refuse to resume if the text encoders have settings of their own now and had none, or the reverse."""
    names = ("text_encoder_lr", "adam_weight_decay_text_encoder")
    now = config.to_save()
    if before and any(before.get(name) is not None for name in names) != any(now[name] is not None for name in names):
        name = next(name for name in names if before.get(name) != now[name])
        raise _other(config, name, before.get(name), now[name])


def _check_measures(before: dict[str, Any], config: TrainingConfig) -> None:
    """Refuse to resume with another encoder or other validation images if they are measured, before and now."""
    runs = (before, config.flat())
    if all(run.get("dino_model") or run.get("clip_model") for run in runs):
        encoder = "dino_model" if any(run.get("dino_model") for run in runs) else "clip_model"
        _check_same(before, config, (encoder, *DRAWN))


def _check_base(before: dict[str, Any], config: TrainingConfig) -> None:
    """Refuse to resume with another base model; only its name is compared, since the folder may have been moved."""
    name = "pretrained_model_name_or_path"
    was, now = before.get(name), str(config.to_save()[name])
    if was and Path(was).name != Path(now).name:
        raise _other(config, name, was, now)


def _saved(config: TrainingConfig) -> dict[str, Any]:
    """Read the flags of the run in the output folder; empty if there is no config file."""
    saved = Path(config.output.output_dir) / CONFIG_NAME
    if not saved.exists():
        return {}
    try:
        settings = with_new_names(dict(read_yaml(saved, "run's config")), GROUPS, quiet=True)
        return settings | {"optimizer_args": optimizer_args.with_old_flags(settings)}
    except (TypeError, ValueError) as error:
        raise UserError(f"{saved} is damaged; delete it to resume with these flags") from error


def _other(config: TrainingConfig, name: str, was: object, now: object) -> UserError:
    saved = Path(config.output.output_dir) / CONFIG_NAME
    return UserError(
        f"--resume_from_checkpoint: the run had {name} {was}, not {now}; use its flags (--config {saved}), or "
        "choose another --output_dir"
    )
