"""The training loop of all tinyworld models: seeded, resumable, with a moving average of the weights."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from persam_dreambooth.photos import files
from persam_dreambooth.torch_utils import emulates_bfloat16

SAVE_EVERY = 200


@dataclass
class Fitted:
    """A training's size, time and machine.

    Attributes:
        steps: number of optimizer steps.
        batch_size: samples per step.
        seconds: time of the loop, without interruptions.
        threads: number of CPU threads.
        machine: name of the processor or GPU.
        torch: version of torch.
    """

    steps: int
    batch_size: int
    seconds: float
    threads: int
    machine: str
    torch: str

    def __add__(self, later: "Fitted") -> "Fitted":
        """Combine two phases of one training."""
        return replace(later, steps=self.steps + later.steps, seconds=self.seconds + later.seconds)


def fit(
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    steps: int,
    batch_size: int,
    learning_rate: float,
    state: Path,
    decay: float = 0.999,
) -> Fitted:
    """Train `model` in place and leave it with the moving average of its weights.

    The forward pass runs under bfloat16 autocast if the processor supports bfloat16. Killed and called again, the
    training resumes from the last saved state, so `loss_of` has to derive its randomness from the step's number.

    Args:
        model: the model to train.
        loss_of: returns the loss of a step, given its number.
        steps: number of steps.
        batch_size: only recorded in the result.
        learning_rate: AdamW's peak rate, after a warm-up; a cosine then lowers it to zero.
        state: file of the state to resume from.
        decay: decay of the moving average.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.99))
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=min(200, steps // 10), num_training_steps=steps)
    average = EMAModel(model.parameters(), decay=decay, use_ema_warmup=True, power=0.75)
    first, seconds = 0, 0.0
    if state.exists():
        saved = torch.load(state, weights_only=True, map_location=next(model.parameters()).device)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        average.load_state_dict(saved["average"])
        first, seconds = saved["step"], saved["seconds"]
    model.train()
    device = next(model.parameters()).device
    started = time.perf_counter() - seconds
    bar = tqdm(range(first, steps), state.stem, steps, initial=first, mininterval=2)
    mean = None
    for step in bar:
        with torch.autocast(device.type, torch.bfloat16, enabled=not emulates_bfloat16(device)):
            loss = loss_of(step)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        average.step(model.parameters())
        value = loss.item()
        mean = value if mean is None else 0.98 * mean + 0.02 * value
        bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            _save(state, model, optimizer, schedule, average, step + 1, time.perf_counter() - started)
    average.copy_to(model.parameters())
    model.eval()
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    seconds = time.perf_counter() - started
    return Fitted(steps, batch_size, round(seconds), torch.get_num_threads(), machine, torch.__version__)


def _save(state, model, optimizer, schedule, average, step, seconds) -> None:  # type: ignore[no-untyped-def]
    with files.replacing(state) as beside:
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "average": average.state_dict(),
                "step": step,
                "seconds": seconds,
            },
            beside,
        )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
