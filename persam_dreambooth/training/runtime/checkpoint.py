"""Checkpoints: written atomically, in the ecosystem's formats, keeping only the newest ones."""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from persam_dreambooth.atomic_io import UNFINISHED
from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.model_folder import CHECKPOINT_PREFIX as PREFIX
from persam_dreambooth.model_folder import checkpoints
from persam_dreambooth.training.families import Family
from persam_dreambooth.training.runtime import checkpoint_files
from persam_dreambooth.training.runtime.checkpoint_files import PROGRESS_NAME
from persam_dreambooth.training.runtime.distributed import shares_weights
from persam_dreambooth.training.runtime.optimizer import load_average, save_average
from persam_dreambooth.training.screen import warn

RNG_NAMES = ("epoch_rng", "torch_rng", "fetch_rng")


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        step: optimizer steps taken.
        epoch: epochs before the current one.
        batches: batches taken from the current epoch.
        epoch_rng: state of the generator that shuffles the epoch, at its start.
        torch_rng: torch's global random state at that time.
        fetch_rng: torch's global random state when the last batch was requested; determines the next crops.
    """

    step: int = 0
    epoch: int = 0
    batches: int = 0
    epoch_rng: Tensor = field(default_factory=torch.get_rng_state)
    torch_rng: Tensor = field(default_factory=torch.get_rng_state)
    fetch_rng: Tensor = field(default_factory=torch.get_rng_state)


def register(accelerator: Accelerator, family: Family, average: EMAModel | None) -> None:
    """Have Accelerate save the trained weights, and their EMA, in the family's own format instead of as raw state.

    Not with FSDP: Accelerate gathers its shards into a format of its own before it calls any hook.
    """
    if shares_weights(accelerator):
        return

    def save(models: list[torch.nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        if accelerator.is_main_process:
            family.save_weights(Path(folder))
            if average is not None:
                save_average(average, Path(folder))
        weights.clear()

    def load(models: list[torch.nn.Module], folder: str) -> None:
        family.load_weights(Path(folder))
        if average is not None:
            load_average(average, Path(folder))
        models.clear()

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def save_checkpoint(accelerator: Accelerator, output: Path, progress: Progress, keep: int | None) -> Path | None:
    """Write `checkpoint-STEP` to a temporary folder, rename it, then delete the oldest ones beyond `keep`.

    All processes must call this, since each saves its own random state. A full disk does not end the training:
    the partial checkpoint is deleted, the earlier ones stay, and a warning is logged.

    Returns:
        The checkpoint; None if it could not be written.
    """
    final, partial = output / f"{PREFIX}{progress.step}", output / f".{PREFIX}{progress.step}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    failure = ""
    try:
        _write(accelerator, partial, progress)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors raise their own for a full disk
        if isinstance(error, torch.OutOfMemoryError):
            raise
        failure = first_line(error)[:200]
    failures = [reason for reason in gather_object([failure]) if reason]
    if accelerator.is_main_process and not failures:
        failures = _finish(partial, progress)
    if accelerator.is_main_process:
        if failures:
            shutil.rmtree(partial, ignore_errors=True)
            warn(
                f"checkpoint {final.name} could not be written ({failures[0]}); training continues, "
                f"{in_words(output)}. Check the free space of {output}"
            )
        else:
            hidden = _hide(final)
            partial.rename(final)
            _clear(hidden, *(_hide(old) for old in checkpoints(output)[: -keep if keep else 0]))
    accelerator.wait_for_everyone()
    return final if (final / PROGRESS_NAME).exists() else None


def _write(accelerator: Accelerator, folder: Path, progress: Progress) -> None:
    accelerator.save_state(str(folder))
    rank = accelerator.process_index
    save_file({name: getattr(progress, name) for name in RNG_NAMES}, folder / f"epoch_rng_{rank}.safetensors")


def _finish(folder: Path, progress: Progress) -> list[str]:
    """Write the progress and the digests of all files, after all processes have written; return errors, if any."""
    values: dict[str, Any] = {name: value for name, value in asdict(progress).items() if name not in RNG_NAMES}
    own = {PROGRESS_NAME: checkpoint_files.digest_of_counts(values)}
    values[checkpoint_files.DIGESTS] = checkpoint_files.digests(folder) | own
    try:
        (folder / PROGRESS_NAME).write_text(json.dumps(values) + "\n", encoding="utf-8")
    except OSError as error:
        return [first_line(error)[:200]]
    return []


def _hide(folder: Path) -> Path:
    """Rename a checkpoint before it is deleted, so that a kill half-way leaves none that looks complete."""
    hidden = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
    return hidden


def _clear(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def clear_leftovers(output: Path) -> None:
    """Delete temporary files and folders of a run that was killed."""
    _clear(*output.glob(f".{PREFIX}*.partial"), *output.glob(f".{PREFIX}*.old"))
    for left in output.glob(f"{UNFINISHED}*"):
        if left.is_dir():
            _clear(left)
        else:
            left.unlink()


def in_words(output: Path) -> str:
    """Name the last checkpoint, as part of a sentence."""
    found = checkpoints(output)
    return f"the last checkpoint is {found[-1]}" if found else "there is no checkpoint yet"


def choose_checkpoint(output: Path, wanted: str) -> Path | None:
    """Find the checkpoint for `--resume_from_checkpoint`: "latest", or a checkpoint's name or path.

    Args:
        output: the run's folder.
        wanted: value of the flag.

    Returns:
        The folder; None if "latest" was wanted and there is no checkpoint.

    Raises:
        UserError: no such checkpoint, or there are later ones, which new ones would get mixed up with.
    """
    found = checkpoints(output)
    if wanted == "latest":
        return found[-1] if found else None
    for number, path in enumerate(found, start=1):
        if path.resolve() in (Path(wanted).resolve(), (output / wanted).resolve()):
            if found[number:]:
                raise UserError(
                    f"--resume_from_checkpoint {wanted}: {output} holds later checkpoints "
                    f"({', '.join(later.name for later in found[number:])}), which would count as newer than its own; "
                    "move or delete them first"
                )
            return path
    raise UserError(
        f"--resume_from_checkpoint {wanted}: no such checkpoint in {output} (there: "
        f"{', '.join(path.name for path in found) or 'none'}); name one of them or drop the flag"
    )


def check_step(progress: Progress, steps: int, folder: Path) -> None:
    """Refuse to resume beyond the run's last step.

    Raises:
        UserError: the checkpoint is from a later step than the run's last.
    """
    if progress.step > steps:
        raise UserError(
            f"{folder} was written after step {progress.step}, and the run ends after step {steps}; raise "
            "--max_train_steps, or name an earlier checkpoint"
        )


def load_checkpoint(accelerator: Accelerator, folder: Path) -> Progress:
    """Restore weights, optimizer, scheduler and random states; return the progress.

    Raises:
        UserError: the checkpoint is damaged or from another run.
    """
    rank = accelerator.process_index
    try:
        values = checkpoint_files.read_progress(folder)
        if accelerator.is_local_main_process:  # the others would only compare the same files
            checkpoint_files.check_files(folder)
        states = checkpoint_files.read_random_states(folder, rank)
        accelerator.load_state(str(folder))
        checkpoint_files.check_random_states(states)
        rng = load_file(folder / f"epoch_rng_{rank}.safetensors")
        counts: dict[str, Any] = {name: values[name] for name in checkpoint_files.COUNTS}
        return Progress(**(counts | {name: rng[name] for name in RNG_NAMES}))
    except Exception as error:  # each kind of file raises its own exceptions when damaged
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise UserError(
            f"cannot resume from {folder} ({reason}); it is damaged or was made with other flags: "
            "delete it to resume from an earlier one, or use the flags of its run"
        ) from error
