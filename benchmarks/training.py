"""Steps a second and memory of training, beside diffusers' own scripts on the same model, photos and flags.

    python benchmarks/training.py
    python benchmarks/training.py --scripts path/to/diffusers/examples/dreambooth
    python benchmarks/training.py --scripts ... --device cuda --dtype bf16 --narrow 1 --resolution 512

The model has Stable Diffusion 1.5's architecture and random weights, every width divided by `--narrow`; `--model`
takes a real one. The unmodified scripts and ours run in turn, several rounds, each in a process of its own, in which a
hook on the optimizer notes the time after every step: wall time, and CPU time (user and system), which a busy machine
disturbs less. The table has the medians over the steps of a run, and of those the medians over the rounds; ratios are
taken within a round. The losses without masks must be those of the script.
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
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook

ROOT = Path(__file__).parents[1]
OURS = ROOT / "train_dreambooth_persam.py"
THEIRS = {"lora": "train_dreambooth_lora.py", "full": "train_dreambooth.py"}
PHOTOS, WARM_UP = 4, 2

MASKS = ("--instance_mask_dir", "masks")
PRIOR = ("--background_prior_weight", "1", "--class_prompt", "a dog")
ONCE = "--pre_compute_text_embeddings"
ROWS = {
    # What is timed: the flags beyond those that all have.
    "diffusers' script": (),
    "diffusers' script, prompts encoded once": (ONCE,),
    "ours, no masks": ("--no_masked_loss",),
    "ours, masks": MASKS,
    "ours, masks, prompts encoded once": (*MASKS, ONCE),
    "ours, masks, background prior": (*MASKS, *PRIOR),
    "ours, masks, background prior, prompts encoded once": (*MASKS, *PRIOR, ONCE),
}
UNMASKED = ("diffusers' script", "ours, no masks")


@dataclass(frozen=True)
class Run:
    """What one training cost, each the median over its steps after the first few.

    Attributes:
        wall, cpu: seconds a step.
        memory: peak until the last step in MiB, of the process, or on a GPU of what torch has allocated there.
        losses: of every step.
    """

    wall: float
    cpu: float
    memory: float
    losses: list[float]


def save_random_model(folder: Path, narrow: int) -> None:
    """Stable Diffusion 1.5's architecture with random weights, its widths divided by 1, 2 or 4."""
    sys.path.insert(0, str(ROOT / "examples"))
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from random_models import SCHEDULE, byte_tokenizer

    torch.manual_seed(0)
    tokenizer, groups, width = byte_tokenizer(), 32 if narrow < 4 else 16, 768 // narrow
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=tuple(side // narrow for side in (320, 640, 1280, 1280)),
        cross_attention_dim=width,
        attention_head_dim=8,
        norm_num_groups=groups,
    )
    vae = AutoencoderKL(
        block_out_channels=tuple(side // narrow for side in (128, 256, 512, 512)),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=groups,
        sample_size=512,
    )
    text = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=12,
        num_hidden_layers=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    parts = {"unet": unet, "vae": vae, "text_encoder": CLIPTextModel(text)}
    counts = {name: sum(one.numel() for one in part.parameters()) / 1e6 for name, part in parts.items()}
    print("millions of weights:", ", ".join(f"{name} {count:.1f}" for name, count in counts.items()), "\n")
    StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=DDPMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def draw_photos(folder: Path, side: int) -> None:
    """A disc on noise, `photos/N.jpg`, and the disc alone, `masks/N.png`; `side` pixels."""
    for name in ("photos", "masks"):
        (folder / name).mkdir()
    y, x = np.mgrid[:side, :side] / side - 0.5
    for number in range(PHOTOS):
        random = np.random.default_rng(number)
        disc = (x - random.uniform(-0.2, 0.2)) ** 2 + (y - random.uniform(-0.2, 0.2)) ** 2 < 0.05
        levels = random.integers(0, 80, (side, side, 3)) + 150 * disc[..., None]
        Image.fromarray(levels.astype(np.uint8)).save(folder / f"photos/{number}.jpg")
        Image.fromarray(disc).save(folder / f"masks/{number}.png")


def train(folder: Path, script: Path, words: list[str], flags: argparse.Namespace) -> Run:
    """Run a training script in a process of its own and read what it cost."""
    output, report = folder / "output", folder / "report.json"
    shutil.rmtree(output, ignore_errors=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(flags.threads), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    if flags.device == "cpu":
        environment["ACCELERATE_USE_CPU"] = "true"
    command = [sys.executable, __file__, "--child", str(report), str(script), *words]
    child = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if child.returncode:
        raise SystemExit(child.stderr[-3000:])
    stamps = json.loads(report.read_text())  # (steps, 3): wall and CPU seconds since some start, MiB
    wall, cpu, memory = np.array(stamps[WARM_UP:]).T
    return Run(float(np.median(np.diff(wall))), float(np.median(np.diff(cpu))), memory[-1], logged_losses(output))


def run_child(report: str, script: str, words: list[str]) -> None:
    """Run a script as `__main__`, noting after every optimizer step time and memory.

    Folders are listed sorted, since diffusers' scripts take photos in the file system's order.
    """
    stamps = []

    def after_step(*_: object) -> None:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
            memory = torch.cuda.max_memory_allocated() / 2**20
        stamps.append((time.perf_counter(), time.process_time(), memory))

    register_optimizer_step_post_hook(after_step)
    listed = Path.iterdir
    Path.iterdir = lambda self: iter(sorted(listed(self)))  # type: ignore[method-assign]
    sys.argv = [script, *words]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    Path(report).write_text(json.dumps(stamps))


def logged_losses(output: Path) -> list[float]:
    """The loss of every step, as the run's tensorboard log has it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (log,) = (path for path in (output / "logs").iterdir() if path.name.startswith("dreambooth"))
    events = EventAccumulator(str(log), size_guidance={"scalars": 0})
    events.Reload()
    return [event.value for event in events.Scalars("loss")]


def measure(folder: Path, kind: str, flags: argparse.Namespace) -> dict[str, list[Run]]:
    """Every row in turn, every other round backwards; a row's runs."""
    words = ["--pretrained_model_name_or_path", flags.model or "model", "--instance_data_dir", "photos"]
    words += ["--instance_prompt", "a sks dog", "--output_dir", "output", "--resolution", str(flags.resolution)]
    words += ["--train_batch_size", str(flags.train_batch_size), "--max_train_steps", str(flags.steps + WARM_UP + 1)]
    words += ["--learning_rate", "1e-5", "--lr_warmup_steps", "0", "--checkpointing_steps", "1000000", "--seed", "0"]
    words += ["--mixed_precision", flags.dtype]
    runs: dict[str, list[Run]] = {title: [] for title in ROWS if flags.scripts or title.startswith("ours")}
    for number in range(flags.rounds):
        for title in list(runs)[:: -1 if number % 2 else 1]:
            more, script = list(ROWS[title]), OURS
            if title.startswith("diffusers"):
                script = flags.scripts.resolve() / THEIRS[kind]
            elif kind == "lora":
                more.append("--use_lora")
            runs[title].append(train(folder, script, [*words, *more], flags))
    return runs


def check_losses(runs: dict[str, list[Run]], tolerance: float) -> None:
    """Print how far the losses without masks lie apart; stop where they are not those of the script.

    Raises:
        SystemExit: they differ by more than `tolerance`.
    """
    if not all(title in runs for title in UNMASKED):
        return
    theirs, ours = (np.array(runs[title][0].losses) for title in UNMASKED)
    apart = np.abs(theirs - ours).max()
    print(f"losses without masks: {len(ours)} steps, at most {apart:.1e} apart (mean loss {theirs.mean():.3f})\n")
    if not apart <= tolerance:
        raise SystemExit(f"the losses differ: {theirs} and {ours}")


def table(runs: dict[str, list[Run]]) -> str:
    """Each row's medians and, against the first row of the same round, ratios of speed."""
    lines = [
        "| | steps/s | speed | CPU s/step | CPU speed | peak MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    first = next(iter(runs.values()))
    for title, its in runs.items():
        wall, cpu, memory = (median(getattr(one, name) for one in its) for name in ("wall", "cpu", "memory"))
        faster = median(base.wall / one.wall for base, one in zip(first, its, strict=True))
        leaner = median(base.cpu / one.cpu for base, one in zip(first, its, strict=True))
        lines.append(f"| {title} | {1 / wall:.2f} | {faster:.2f} x | {cpu:.2f} | {leaner:.2f} x | {memory:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Time everything in turn, print a table for LoRA and one for full fine-tuning."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", type=Path, help="diffusers' examples/dreambooth; left out if unset")
    parser.add_argument("--kind", choices=[*THEIRS, "both"], default="both", help="what is trained (both)")
    parser.add_argument("--model", help="a base model's folder or hub name instead of random weights")
    parser.add_argument("--narrow", type=int, choices=[1, 2, 4], default=4, help="widths are divided by this (4)")
    parser.add_argument("--resolution", type=int, default=256, help="pixels (256)")
    parser.add_argument("--train_batch_size", type=int, default=1, help="photos a step (1)")
    parser.add_argument("--steps", type=int, default=12, help="steps that are timed in each run (12)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each row is run (3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU (1)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where (cpu)")
    parser.add_argument("--dtype", choices=["no", "bf16", "fp16"], default="no", help="mixed precision (no)")
    flags = parser.parse_args()
    machine = (
        torch.cuda.get_device_name() if flags.device == "cuda" else f"{platform.machine()}, {flags.threads} threads"
    )
    print(f"{machine}, torch {torch.__version__}, {flags.resolution} pixels, mixed precision {flags.dtype}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not flags.model:
            save_random_model(folder / "model", flags.narrow)
        draw_photos(folder, 2 * flags.resolution)
        for kind in THEIRS if flags.kind == "both" else [flags.kind]:
            runs = measure(folder, kind, flags)
            print(f"{kind}, {flags.rounds} rounds of {flags.steps} steps\n")
            check_losses(runs, 1e-4 if flags.dtype == "no" else 5e-2)
            print(table(runs), "\n", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        main()
