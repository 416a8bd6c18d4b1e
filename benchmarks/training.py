"""Speed and memory of training, compared with diffusers' own scripts on the same model, photos and flags.

    python benchmarks/training.py
    python benchmarks/training.py --scripts path/to/diffusers/examples/dreambooth
    python benchmarks/training.py --scripts ... --device cuda --dtype bf16 --narrow 1 --resolution 512

The model has Stable Diffusion 1.5's architecture and random weights, with every width divided by `--narrow`; `--model`
uses a real one. Trainings are compared in pairs, unmodified and each in its own process. The two alternate step by
step, so that other load on the machine affects both alike; a hook on the optimizer makes one wait for the other. The
table has medians over all steps but the first few, and the quartiles of the ratios of neighbouring steps. Comparing
the script with itself shows the noise. CPU seconds are the user and system time of the whole process. Without masks,
the losses must equal those of the script.
"""

import argparse
import json
import os
import platform
import resource
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.optimizer import register_optimizer_step_post_hook

ROOT = Path(__file__).parents[1]
OURS = ROOT / "train_dreambooth_persam.py"
THEIRS = {"lora": "train_dreambooth_lora.py", "full": "train_dreambooth.py"}
PHOTOS, WARM_UP = 4, 2

MASKS = ("--instance_mask_dir", "masks")
PRIOR = ("--background_prior_weight", "1", "--class_prompt", "a dog")
ONCE = "--pre_compute_text_embeddings"
CACHED = (ONCE, "--cache_latents")
# One version of each photo, so that the bank of draws is full before the timed steps.
FIXED = (*MASKS, *CACHED, "--center_crop")
BANK = (*PRIOR, "--cache_background_prior", "1")
ATTENTION = ("--attention_loss_weight", "0.01", "--identifier", "sks")
BF16 = ("--mixed_precision", "bf16")
ROWS = {
    # Each training's flags in addition to the common ones.
    "diffusers' script": (),
    "diffusers' script, prompts encoded once": (ONCE,),
    "ours, no masks": ("--no_masked_loss",),
    "ours, masks": MASKS,
    "ours, masks, prompts encoded once": (*MASKS, ONCE),
    "ours, masks, background prior": (*MASKS, *PRIOR),
    "ours, masks, background prior, prompts encoded once": (*MASKS, *PRIOR, ONCE),
    "ours, masks, prompts and photos encoded once": (*MASKS, *CACHED),
    "ours, everything encoded once": FIXED,
    "ours, everything encoded once, background prior": (*FIXED, *PRIOR),
    "ours, everything encoded once, background prior from a bank": (*FIXED, *BANK),
    "ours, everything encoded once, attention loss": (*FIXED, *ATTENTION),
    "ours, everything encoded once, int8": (*FIXED, "--quantize", "int8"),
    "ours, everything encoded once, bf16": (*FIXED, *BF16),
    "ours, no masks, prompts encoded once, bf16": ("--no_masked_loss", ONCE, *BF16),
    "diffusers' script, prompts encoded once, bf16": (ONCE, *BF16),
}
PAIRS = (
    # A training and the one that it is compared with.
    ("diffusers' script", "diffusers' script"),
    ("ours, no masks", "diffusers' script"),
    ("ours, masks, prompts encoded once", "diffusers' script"),
    ("ours, masks, prompts encoded once", "diffusers' script, prompts encoded once"),
    ("ours, masks, prompts and photos encoded once", "diffusers' script"),
    ("ours, masks", "ours, no masks"),
    ("ours, masks, background prior", "ours, masks"),
    ("ours, masks, background prior, prompts encoded once", "ours, masks, prompts encoded once"),
    ("ours, everything encoded once, background prior", "ours, everything encoded once"),
    ("ours, everything encoded once, background prior from a bank", "ours, everything encoded once"),
    ("ours, everything encoded once, attention loss", "ours, everything encoded once"),
    ("ours, everything encoded once, int8", "ours, everything encoded once"),
    ("ours, everything encoded once, bf16", "ours, everything encoded once"),
    ("ours, everything encoded once, bf16", "diffusers' script"),
    ("ours, no masks, prompts encoded once, bf16", "diffusers' script, prompts encoded once, bf16"),
    ("diffusers' script, prompts encoded once, bf16", "diffusers' script, prompts encoded once"),
)
LORA_ONLY = "int8"
"""A word in the titles of rows that full fine-tuning refuses."""
UNMASKED = ("ours, no masks", "diffusers' script")
HEAD = """\
| | compared with | speed | speed by CPU time | s/step | CPU s/step | peak MiB | more MiB |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"""


class Training:
    """A training script in its own process, which waits after every step for the signal to take the next.

    Attributes:
        steps: for each step but the first its wall seconds, CPU seconds, and the peak memory so far in MiB: of the
            process, or on a GPU of torch's allocations.
    """

    def __init__(self, title: str, folder: Path, number: int, words: list[str]) -> None:
        self.title, self.output = title, folder / f"output-{number}"
        self.steps: list[list[float]] = []
        reading, writing = os.pipe()
        self.report, self.said = os.fdopen(reading), tempfile.TemporaryFile()  # noqa: SIM115 - it outlives this call
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child", str(writing), *words, "--output_dir", str(self.output)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self.said,
            pass_fds=[writing],
        )
        os.close(writing)
        self._wait()

    def _wait(self) -> list[float]:
        """Wait for the current step; return its cost."""
        cost = self.report.readline()
        if not cost:
            self._give_up()
        return list(json.loads(cost))

    def step(self) -> None:
        """Take one step."""
        self._go_on()
        self.steps.append(self._wait())

    def finish(self) -> list[float]:
        """Let it save its model and end; return the loss of every step from its tensorboard log."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        self._go_on()
        if self.process.wait():
            self._give_up()
        (log,) = (path for path in (self.output / "logs").iterdir() if path.name.startswith("dreambooth"))
        events = EventAccumulator(str(log), size_guidance={"scalars": 0})
        events.Reload()
        shutil.rmtree(self.output)
        return [event.value for event in events.Scalars("loss")]

    def _give_up(self) -> NoReturn:
        self.said.seek(0)
        raise SystemExit(f"{self.title} failed: {self.said.read().decode()[-3000:]}")

    def _go_on(self) -> None:
        pipe = self.process.stdin
        assert pipe is not None
        pipe.write(b"\n")
        pipe.flush()


def run_child(report: IO[str], script: str, words: list[str]) -> None:
    """Run a script as `__main__`; after every optimizer step, report its cost and wait for a line on stdin.

    Folders are listed in sorted order, because diffusers' scripts read photos in the file system's order.
    """
    begun = [time.perf_counter(), time.process_time()]

    def after_step(*_: object) -> None:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
            memory = torch.cuda.max_memory_allocated() / 2**20
        wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
        print(json.dumps([wall, cpu, memory]), file=report, flush=True)
        sys.stdin.readline()
        begun[:] = [time.perf_counter(), time.process_time()]

    register_optimizer_step_post_hook(after_step)
    listed = Path.iterdir
    Path.iterdir = lambda self: iter(sorted(listed(self)))  # type: ignore[method-assign]
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")


def compare(
    pair: tuple[str, str], folder: Path, kind: str, flags: argparse.Namespace
) -> tuple[str, list[list[float]]]:
    """Train both of a pair in turn; return a row of the table and the losses of both.

    Which one starts first, and which takes the first of two steps, alternates, because either may be an advantage.
    """
    costs: list[list[list[float]]] = [[], []]
    for number in range(flags.rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        trainings = {
            which: Training(pair[which], folder, which, words_of(pair[which], kind, flags)) for which in order
        }
        for step in range(flags.steps + WARM_UP):
            for which in order[:: -1 if step % 2 else 1]:
                trainings[which].step()
        losses = [trainings[which].finish() for which in (0, 1)]
        for which, training in trainings.items():
            costs[which] += training.steps[WARM_UP:]
    return table_row(pair, np.array(costs[0]), np.array(costs[1])), losses


def words_of(title: str, kind: str, flags: argparse.Namespace) -> list[str]:
    """Return the script and the flags of a row."""
    if title.startswith("diffusers"):
        script = [str(flags.scripts.resolve() / THEIRS[kind])]
    else:
        script = [str(OURS), *(["--use_lora"] if kind == "lora" else [])]
    words = ["--pretrained_model_name_or_path", flags.model or "model", "--instance_data_dir", "photos"]
    words += ["--instance_prompt", "a sks dog", "--resolution", str(flags.resolution), "--seed", "0"]
    words += ["--train_batch_size", str(flags.train_batch_size), "--max_train_steps", str(flags.steps + WARM_UP + 1)]
    words += ["--learning_rate", "1e-5", "--lr_warmup_steps", "0", "--checkpointing_steps", "1000000"]
    return [*script, *words, "--mixed_precision", flags.dtype, *ROWS[title]]


def check_losses(losses: list[list[float]], tolerance: float) -> None:
    """Print the largest difference between the losses of two trainings; exit if it exceeds `tolerance`."""
    apart = np.abs(np.subtract(*losses)).max()
    print(f"\nlosses without masks: {len(losses[0])} steps, at most {apart:.1e} from the script's {losses[1][-1]:.3f}")
    if not apart <= tolerance:
        raise SystemExit(f"the losses differ: {losses}")


def table_row(pair: tuple[str, str], one: NDArray[np.float64], other: NDArray[np.float64]) -> str:
    """Format a pair as a row of the table; each is (steps, 3): wall seconds, CPU seconds, MiB."""
    cells = list(pair)
    for column in (0, 1):
        low, middle, high = np.quantile(other[:, column] / one[:, column], (0.25, 0.5, 0.75))
        cells.append(f"{middle:.3f} x ({low:.2f} to {high:.2f})")
    wall, cpu, _ = np.median(one, axis=0)
    peak, others = one[:, 2].max(), other[:, 2].max()
    cells += [f"{wall:.2f}", f"{cpu:.2f}", f"{peak:.0f}", f"{peak - others:+.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Compare all pairs; print a table for LoRA and one for full fine-tuning."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", type=Path, help="diffusers' examples/dreambooth; left out if unset")
    parser.add_argument("--kind", choices=[*THEIRS, "both"], default="both", help="what is trained (both)")
    parser.add_argument("--model", help="a base model's folder or hub name instead of random weights")
    parser.add_argument("--narrow", type=int, choices=[1, 2, 4], default=4, help="widths are divided by this (4)")
    parser.add_argument("--resolution", type=int, default=256, help="training resolution in pixels (256)")
    parser.add_argument("--train_batch_size", type=int, default=1, help="photos per step (1)")
    parser.add_argument("--steps", type=int, default=20, help="steps of a round that are timed (20)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU (1)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="device (cpu)")
    parser.add_argument("--dtype", choices=["no", "bf16", "fp16"], default="no", help="mixed precision (no)")
    parser.add_argument("--only", default="", help="only rows whose `A / B` contains this, such as prior")
    parser.add_argument("--rounds", type=int, default=2, help="how often each pair is trained (2)")
    flags = parser.parse_args()
    # The trainings inherit the environment.
    os.environ |= {"OMP_NUM_THREADS": str(flags.threads), "TOKENIZERS_PARALLELISM": "false"}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    if flags.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    processor = f"{platform.machine()}, {flags.threads} threads"
    machine = torch.cuda.get_device_name() if flags.device == "cuda" else processor
    print(f"{machine}, torch {torch.__version__}, {flags.resolution} pixels, mixed precision {flags.dtype}")
    from random_inputs import draw_photos, save_random_sd15  # not in the trainings, whose memory is measured

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not flags.model:
            save_random_sd15(folder / "model", flags.narrow)
        draw_photos(folder, 2 * flags.resolution, PHOTOS)
        for kind in THEIRS if flags.kind == "both" else [flags.kind]:
            print(f"{kind}, {flags.rounds} rounds of {flags.steps} steps\n\n{HEAD}", flush=True)
            losses = {}
            for pair in PAIRS:
                there = flags.scripts or not any(title.startswith("diffusers") for title in pair)
                there = there and (kind == "lora" or LORA_ONLY not in " / ".join(pair))
                if there and flags.only in " / ".join(pair):
                    row, losses[pair] = compare(pair, folder, kind, flags)
                    print(row, flush=True)
            if UNMASKED in losses:
                check_losses(losses[UNMASKED], 1e-4 if flags.dtype == "no" else 5e-2)
            print()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(os.fdopen(int(sys.argv[2]), "w"), sys.argv[3], sys.argv[4:])
    else:
        main()
