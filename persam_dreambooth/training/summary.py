"""Summarize a training run: device, weights, photos, steps and loss at its start; time and loss at its end."""

from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from persam_dreambooth.errors import counted
from persam_dreambooth.metrics_file import read_metrics
from persam_dreambooth.model_folder import ADAPTER_NAMES
from persam_dreambooth.training.config import TrainingConfig, without_folders
from persam_dreambooth.training.families import Family
from persam_dreambooth.training.runtime.likeness import long_enough
from persam_dreambooth.training.screen import WINDOW
from persam_dreambooth.training.setup import Setup


def lines(run: Setup, family: Family, steps: int, epoch: int) -> list[str]:
    """Summarize the run in a few lines for the screen.

    Args:
        run: the run's setup.
        family: not yet prepared by Accelerate, so that its weights can be counted.
        steps: in the whole run.
        epoch: steps in an epoch.
    """
    return [
        f"device: {_device(run)}",
        f"training: {_trained(run.config, family)}",
        f"photos: {_photos(run)}",
        f"steps: {steps}, {_epochs(steps / epoch)} of {counted(epoch, 'step')}",
        f"loss: {_loss(run)}",
    ]


def begins(checkpoint: Path | None, step: int) -> str:
    """Say where the training starts: at the beginning, or after a checkpoint."""
    return "from the beginning" if checkpoint is None else f"resumed from {checkpoint}, after {counted(step, 'step')}"


def ends(output: Path, steps: int, seconds: float) -> list[str]:
    """Summarize a finished run: "trained 400 steps in 3 min 12 s; mean loss 0.1290 in the first 50 ...".

    If its validation pictures were measured, a second line may say that it was trained long enough earlier.

    Args:
        output: the run's folder, whose `metrics.jsonl` also has the steps before a resumption.
        steps: taken by this process.
        seconds: that it took, validation and saving included.
    """
    losses = [values["loss"] for values in read_metrics(output).values() if "loss" in values]
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    time = f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
    done = f"trained {counted(steps, 'step')} in {time}"
    if not losses:
        return [done]
    enough = list(filter(None, [long_enough(output)]))
    first, last = fmean(losses[:WINDOW]), fmean(losses[-WINDOW:])
    if len(losses) < 2 * WINDOW:
        return [f"{done}; mean loss {fmean(losses):.4f}", *enough]
    return [f"{done}; mean loss {first:.4f} in the first {WINDOW} steps, {last:.4f} in the last {WINDOW}", *enough]


def _device(run: Setup) -> str:
    accelerator = run.accelerator
    device = accelerator.device
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    processes = f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    precision = {"no": "float32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    return f"{'cpu' if device.type == 'cpu' else device}{name}{processes}, {precision}"


def _trained(config: TrainingConfig, family: Family) -> str:
    parts, model = family.trained(), config.model
    learned = sum(_size(part, learned=True) for part in parts.values())
    total = sum(_size(part) for part in parts.values()) - (learned if model.frozen_base else 0)
    base = without_folders(str(model.pretrained_model_name_or_path))
    whose = f"{base}'s {' and '.join(family.adapted())}"
    if not model.frozen_base:
        return f"all {_millions(total)} M weights of {whose}"
    kind = "DoRA" if model.use_dora else ADAPTER_NAMES[model.adapter_type]
    count = sum(family.new_tokens.words.values()) if family.new_tokens else 0
    words = f"{counted(count, 'new token')} ({', '.join(model.new_words)})" if count else ""
    if not model.use_lora:
        encoders = " and ".join(family.inverted())
        return (
            f"{words} of {base}'s {encoders}, {learned} numbers and nothing else; --use_lora trains LoRA beside them"
        )
    words = f" and {words}" if words else ""
    return f"{kind} rank {model.rank} of {whose}{words}, {_millions(learned)} M of {_millions(total)} M weights"


def _size(part: nn.Module, learned: bool = False) -> int:
    return sum(weight.numel() for weight in part.parameters() if weight.requires_grad or not learned)


def _millions(number: int) -> str:
    millions = number / 1e6
    return f"{millions:.0f}" if millions >= 100 else f"{millions:.2g}" if millions < 10 else f"{millions:.1f}"


def _photos(run: Setup) -> str:
    config = run.config
    batch, accumulated = config.data.train_batch_size, config.optimization.gradient_accumulation_steps
    factors = {"in a batch": batch, "accumulated": accumulated, "processes": run.accelerator.num_processes}
    product = " x ".join(f"{number} {name}" for name, number in factors.items() if number > 1)
    several = sum(number > 1 for number in factors.values()) > 1
    step = batch * accumulated * run.accelerator.num_processes
    words = [str(len(run.instances))]
    shown = sum(photo.repeats for photo in run.instances)
    if shown != len(run.instances):
        words.append(f"{shown} with repeats")
    if len(run.concepts) > 1:
        words.append(f"{len(run.concepts)} subjects")
    sides = " or ".join(f"{width} x {height}" for height, width in sorted({photo.size for photo in run.instances}))
    return f"{', '.join(words)}, {sides} pixels; {step} a step{f' ({product})' if several else ''}"


def _epochs(number: float) -> str:
    return counted(round(number), "epoch") if number == round(number) else f"{number:.1f} epochs"


def _loss(run: Setup) -> str:
    """Return the terms of the loss by their names in the log, with their weights."""
    mask, data, optimization = run.config.mask, run.config.data, run.config.optimization
    whole = "whole photos"
    if mask.masked_loss:
        whole = f"inside the masks, normalization {mask.mask_normalization}"
        whole += f", outside at weight {mask.background_weight:g}" if mask.background_weight else ""
    terms = [f"instance_loss ({whole})"]
    if mask.background_prior_weight:
        terms.append(f"{mask.background_prior_weight:g} x background_prior_loss")
    if mask.attention_loss_weight:
        terms.append(f"{mask.attention_loss_weight:g} x attention_loss")
    if data.with_prior_preservation:
        images = sum(map(len, run.class_images))
        terms.append(f"{data.prior_loss_weight:g} x prior_loss ({counted(images, 'class image')})")
    snr = "" if optimization.snr_gamma is None else f"; min-SNR, gamma {optimization.snr_gamma:g}"
    return " + ".join(terms) + snr
