"""Checkpoints: whole or absent, in the ecosystem's formats, the newest few kept."""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.families import Family

PREFIX = "checkpoint-"
PROGRESS_NAME = "progress.json"
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


def register(accelerator: Accelerator, family: Family) -> None:
    """Have Accelerate store the trained weights in the family's own format instead of as raw state."""

    def save(models: list[torch.nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        if accelerator.is_main_process:
            family.save_weights(Path(folder))
        weights.clear()

    def load(models: list[torch.nn.Module], folder: str) -> None:
        family.load_weights(Path(folder))
        models.clear()

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def save_checkpoint(accelerator: Accelerator, output: Path, progress: Progress, keep: int | None) -> Path:
    """Write `checkpoint-STEP`: beside, then renamed; then remove the oldest beyond `keep`.

    All processes must call this, since each stores its own random state.
    """
    final, partial = output / f"{PREFIX}{progress.step}", output / f".{PREFIX}{progress.step}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    rank = accelerator.process_index
    save_file({name: getattr(progress, name) for name in RNG_NAMES}, partial / f"epoch_rng_{rank}.safetensors")
    if accelerator.is_main_process:
        values = {name: value for name, value in asdict(progress).items() if name not in RNG_NAMES}
        (partial / PROGRESS_NAME).write_text(json.dumps(values) + "\n", encoding="utf-8")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _remove(final)
        partial.rename(final)
        for old in checkpoints(output)[: -keep if keep else 0]:
            _remove(old)
    accelerator.wait_for_everyone()
    return final


def _remove(folder: Path) -> None:
    """Delete a checkpoint; out of sight first, so that a kill on the way leaves none that looks whole."""
    if folder.exists():
        hidden = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
        shutil.rmtree(hidden)


def checkpoints(output: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    numbered = (path for path in output.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal())
    found = [path for path in numbered if (path / PROGRESS_NAME).exists()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)))


def choose_checkpoint(output: Path, wanted: str) -> Path:
    """The checkpoint that `--resume_from_checkpoint` names: "latest", or a checkpoint's name or path.

    Args:
        output: the run's folder.
        wanted: what the flag says.

    Raises:
        UserError: there is none.
    """
    found = checkpoints(output)
    names = ", ".join(path.name for path in found) or "none"
    if wanted == "latest" and found:
        return found[-1]
    for path in found:
        if path.name == Path(wanted).name:
            return path
    raise UserError(
        f"--resume_from_checkpoint {wanted}: no such checkpoint in {output} (there: {names}); "
        "name one of them or leave the flag out"
    )


def load_checkpoint(accelerator: Accelerator, folder: Path) -> Progress:
    """Put weights, optimizer, scheduler and random states back; returns how far the run had come.

    Raises:
        UserError: the checkpoint is damaged or another run's.
    """
    try:
        accelerator.load_state(str(folder))
        values = json.loads((folder / PROGRESS_NAME).read_text(encoding="utf-8"))
        rng = load_file(folder / f"epoch_rng_{accelerator.process_index}.safetensors")
        return Progress(**(values | {name: rng[name] for name in RNG_NAMES}))
    except Exception as error:  # each of a checkpoint's files answers damage in its own way
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise UserError(
            f"{folder} cannot be gone on from ({reason}); it is damaged or was made with other flags: "
            "name an earlier checkpoint, or use the flags of its run"
        ) from error
