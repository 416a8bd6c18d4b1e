"""Checkpoints: whole or absent, in the ecosystem's formats, the newest few kept."""

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
from persam_dreambooth.errors import UserError
from persam_dreambooth.training.families import Family
from persam_dreambooth.training.runtime import checkpoint_files
from persam_dreambooth.training.runtime.checkpoint_files import PROGRESS_NAME
from persam_dreambooth.training.runtime.distributed import shares_weights
from persam_dreambooth.training.runtime.ema import load_average, save_average
from persam_dreambooth.training.screen import warn

PREFIX = "checkpoint-"
RNG_NAMES = ("epoch_rng", "torch_rng", "fetch_rng")


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: optimizer steps taken.
        epoch: epochs begun before the current one.
        batches: batches taken of the current epoch.
        epoch_rng: state, when the epoch began, of the generator from which its order of photos follows.
        torch_rng: torch's own state at that time.
        fetch_rng: torch's own state when the newest batch was asked for, from which the next one's crops follow.
    """

    step: int = 0
    epoch: int = 0
    batches: int = 0
    epoch_rng: Tensor = field(default_factory=torch.get_rng_state)
    torch_rng: Tensor = field(default_factory=torch.get_rng_state)
    fetch_rng: Tensor = field(default_factory=torch.get_rng_state)


def register(accelerator: Accelerator, family: Family, average: EMAModel | None) -> None:
    """Have Accelerate store the trained weights in the family's own format, not as raw state; and their average.

    Not with FSDP, whose shares Accelerate gathers into a format of its own before it asks anyone.
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
    """Write `checkpoint-STEP`: beside, then renamed; then remove the oldest beyond `keep`.

    All processes must call this, since each stores its own random state. A full disk is no end of
    the training: what was written is removed again, the earlier checkpoints stay, and a warning says so.

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
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own for a full disk
        if isinstance(error, torch.OutOfMemoryError):
            raise
        failure = " ".join(str(error).split())[:200]
    failures = [one for one in gather_object([failure]) if one]
    if accelerator.is_main_process and not failures:
        failures = _finish(partial, progress)
    if accelerator.is_main_process:
        if failures:
            shutil.rmtree(partial, ignore_errors=True)
            warn(
                f"checkpoint {final.name} could not be written ({failures[0]}); the training goes on, "
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
    """Write, when all processes have written, what is to be found there; returns what went wrong, if anything did."""
    values: dict[str, Any] = {name: value for name, value in asdict(progress).items() if name not in RNG_NAMES}
    own = {PROGRESS_NAME: checkpoint_files.digest_of_counts(values)}
    values[checkpoint_files.DIGESTS] = checkpoint_files.digests(folder) | own
    try:
        (folder / PROGRESS_NAME).write_text(json.dumps(values) + "\n", encoding="utf-8")
    except OSError as error:
        return [" ".join(str(error).split())[:200]]
    return []


def _hide(folder: Path) -> Path:
    """Take a checkpoint out of sight, so that a kill while it is deleted leaves none that looks whole."""
    hidden = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
    return hidden


def _clear(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def clear_leftovers(output: Path) -> None:
    """Delete what a run that was killed while it wrote or deleted something left behind."""
    _clear(*output.glob(f".{PREFIX}*.partial"), *output.glob(f".{PREFIX}*.old"))
    for left in output.glob(f"{UNFINISHED}*"):
        if left.is_dir():
            _clear(left)
        else:
            left.unlink()


def in_words(output: Path) -> str:
    """What there is to go on from, as part of a sentence."""
    found = checkpoints(output)
    return f"the last checkpoint is {found[-1]}" if found else "there is no checkpoint yet"


def checkpoints(output: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    numbered = (path for path in output.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal())
    found = [path for path in numbered if (path / PROGRESS_NAME).exists()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)))


def choose_checkpoint(output: Path, wanted: str) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` names: "latest", or a checkpoint's name or path.

    Args:
        output: the run's folder.
        wanted: what the flag says.

    Returns:
        The folder; None if "latest" was wanted and there is no checkpoint.

    Raises:
        UserError: there is none of that name, or later ones, which new ones would be mixed with.
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
        f"{', '.join(path.name for path in found) or 'none'}); name one of them or leave the flag out"
    )


def check_step(progress: Progress, steps: int, folder: Path) -> None:
    """Refuse to go on beyond the run's end.

    Raises:
        UserError: the checkpoint is of a later step than the run's last.
    """
    if progress.step > steps:
        raise UserError(
            f"{folder} was written after step {progress.step}, and the run ends after step {steps}; raise "
            "--max_train_steps, or name an earlier checkpoint"
        )


def load_checkpoint(accelerator: Accelerator, folder: Path) -> Progress:
    """Put weights, optimizer, scheduler and random states back; returns how far the run had come.

    Raises:
        UserError: the checkpoint is damaged or another run's.
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
    except Exception as error:  # each of a checkpoint's files answers damage in its own way
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise UserError(
            f"{folder} cannot be gone on from ({reason}); it is damaged or was made with other flags: "
            "delete it to go on from an earlier one, or use the flags of its run"
        ) from error
