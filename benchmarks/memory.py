"""Memory of training: the base models' weights by precision, counted, and whole runs at real sizes, measured.

    python benchmarks/memory.py
    python benchmarks/memory.py --measure "SD 1.5" --only LoRA

Without a flag nothing is downloaded or run: models are built from their published configurations without storage
(torch's meta device), and their weights are counted. The table does not include adapters, optimizer and activations.
It assumes that prompts and photos are encoded before training (`--pre_compute_text_embeddings --cache_latents`), so
that only the UNet or transformer is in memory while it is trained. `train --dry_run` estimates a whole run.

`--measure` trains a model with random weights on this machine's CPU for two steps of one photo, each row in its own
process. It prints the largest resident memory during the second step, and during the whole run with loading and
saving. Both include Python and its libraries, whose share the first row shows, a model with almost no weights. The
third column is the estimate of `--dry_run` for the same flags. Linux only.
"""

import argparse
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from published_models import ENCODERS, MODELS
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from persam_dreambooth.training.families import FAMILIES

ROOT = Path(__file__).parents[1]
OURS = ROOT / "train_dreambooth_persam.py"


def count(model: str) -> tuple[int, int, int, int]:
    """Count a denoiser's weights, those in linear layers, the rows of these, and the text encoders' weights."""
    pipeline, settings = MODELS[model]
    family = FAMILIES[pipeline]
    with torch.device("meta"):
        denoiser: nn.Module = family.denoiser[1](**settings)
        encoders = [
            kind(config(**given))
            for kind, (config, given) in zip(family.encoders.values(), ENCODERS[model], strict=True)
        ]
    linear = [layer.weight for layer in denoiser.modules() if isinstance(layer, nn.Linear)]
    rows = sum(len(weight) for weight in linear)
    text = sum(weight.numel() for encoder in encoders for weight in encoder.parameters())
    return sum(map(Tensor.numel, denoiser.parameters())), sum(map(Tensor.numel, linear)), rows, text


def print_counted() -> None:
    """Count the weights of all models."""
    print(
        "| the denoiser's weights, counted | float32 | bf16 | int8 or fp8 | in linear layers | text encoders, bf16 |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for model in MODELS:
        weights, linear, rows, text = count(model)
        packed = linear + 4 * rows + 2 * (weights - linear)  # a byte each, a float32 scale a row, the rest in bf16
        cells = " | ".join(f"{size / 1e9:.1f} GB" for size in (4 * weights, 2 * weights, packed))
        share = f"{linear / weights:.0%} of {weights / 1e9:.2f} billion"
        print(f"| {model} | {cells} | {share} | {2 * text / 1e9:.1f} GB |", flush=True)


CACHES = ("--pre_compute_text_embeddings", "--cache_latents")
LORA = ("--use_lora", "--rank", "4")
LEAN = (*LORA, "--gradient_checkpointing", *CACHES)
BF16 = ("--mixed_precision", "bf16")
EIGHT = ("--layerwise_upcasting_storage_dtype", "float8_e4m3fn")
ROWS = {
    # Each run's flags in addition to the common ones.
    "LoRA": LORA,
    "LoRA, gradient checkpointing": (*LORA, "--gradient_checkpointing"),
    "LoRA, gradient checkpointing, caches": LEAN,
    "LoRA, gradient checkpointing, caches, bf16": (*LEAN, *BF16),
    "LoRA, gradient checkpointing, caches, bf16, int8": (*LEAN, *BF16, "--quantize", "int8"),
    "LoRA, gradient checkpointing, caches, bf16, layerwise": (*LEAN, *BF16, *EIGHT),
    "all weights": (),
    "all weights, gradient checkpointing, caches": ("--gradient_checkpointing", *CACHES),
}
MEASURED = ("SD 1.5", "SD 1.5, half as wide", "SDXL")
HEAD = """\
| | a step, measured | without Python | estimated before | whole run, measured | s/step |
| --- | ---: | ---: | ---: | ---: | ---: |"""


def measure(model: str, only: str, flags: argparse.Namespace) -> None:
    """Train a random model with each row's flags and print a table."""
    sys.path.insert(0, str(ROOT / "examples"))
    from random_inputs import draw_photos, save_random_sd15, save_random_sdxl

    from random_models import random_stable_diffusion

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_photos(folder, 2 * flags.resolution, 1)
        random_stable_diffusion().save_pretrained(folder / "tiny")
        if model == "SDXL":
            save_random_sdxl(folder / "model")
        else:
            save_random_sd15(folder / "model", 2 if "half" in model else 1)
        print(f"{model}, {flags.resolution} pixels, {flags.threads} threads, torch {torch.__version__}\n\n{HEAD}")
        python, _, _ = train(folder, words_of("tiny", 64, LORA), flags.threads)
        print(f"| Python and its libraries | {python / 1e9:.2f} GB | | | | |", flush=True)
        for title, own in ROWS.items():
            if only not in title:
                continue
            words = words_of("model", flags.resolution, own)
            step, run, seconds = train(folder, words, flags.threads)
            cells = (step / 1e9, (step - python) / 1e9, estimate(folder, words), run / 1e9)
            print(f"| {title} | {' | '.join(f'{cell:.2f} GB' for cell in cells)} | {seconds:.0f} |", flush=True)


def words_of(model: str, resolution: int, own: tuple[str, ...]) -> list[str]:
    """Return the flags of a run."""
    words = ["--pretrained_model_name_or_path", model, "--instance_data_dir", "photos", "--instance_mask_dir", "masks"]
    words += ["--instance_prompt", "a sks dog", "--resolution", str(resolution), "--seed", "0", "--report_to", "none"]
    words += ["--train_batch_size", "1", "--max_train_steps", "2", "--cached_crops", "1", "--output_dir", "output"]
    return [*words, *own]


def train(folder: Path, words: list[str], threads: int) -> tuple[float, float, float]:
    """Train in a child process; return the peak of its second step and of the whole run in bytes, and s/step."""
    report = folder / "report"
    report.unlink(missing_ok=True)
    shutil.rmtree(folder / "output", ignore_errors=True)  # it belongs to one run
    command = [sys.executable, __file__, "--child", str(report), *words]
    process = subprocess.Popen(command, cwd=folder, env=environment(threads), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the training ended with {status}: {' '.join(words)}")
    steps = [list(map(float, line.split())) for line in report.read_text().splitlines()]
    peaks = [peak for peak, _ in steps]
    return peaks[1], max(*peaks, 1024.0 * usage.ru_maxrss), steps[1][1]


def estimate(folder: Path, words: list[str]) -> float:
    """Return what `--dry_run` estimates, in GB."""
    shutil.rmtree(folder / "output", ignore_errors=True)
    command = [sys.executable, str(OURS), *words, "--dry_run"]
    said = subprocess.run(
        command, cwd=folder, env=environment(1), stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    number, unit = re.search(r"memory, estimated: (\S+) (\S+)", said).groups()
    return float(number) * {"GB": 1, "MB": 1e-3, "kB": 1e-6}[unit]


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a run on the CPU."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": str(threads), "ACCELERATE_USE_CPU": "true", "PYTHONPATH": paths}


def run_child(report: Path, words: list[str]) -> None:
    """Run the trainer; after each optimizer step, write the peak since the last one, in bytes, and its seconds."""
    begun = [time.perf_counter()]

    def after_step(*_: object) -> None:
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)
        with report.open("a") as file:
            file.write(f"{int(peak) * 1024} {time.perf_counter() - begun[0]}\n")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
        begun[0] = time.perf_counter()

    register_optimizer_step_post_hook(after_step)
    sys.argv = [str(OURS), *words]
    runpy.run_path(str(OURS), run_name="__main__")


def main() -> None:
    """Count, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", choices=MEASURED, help="train a random model of this size; counts if unset")
    parser.add_argument("--only", default="", help="only rows with this in their title")
    parser.add_argument("--resolution", type=int, default=512, help="pixels (512)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU (1)")
    flags = parser.parse_args()
    if flags.measure:
        measure(flags.measure, flags.only, flags)
    else:
        print_counted()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(Path(sys.argv[2]), sys.argv[3:])
    else:
        main()
