"""Time and peak memory at real sizes, with randomly initialized models, so nothing is downloaded.

    python benchmarks/full_size.py                 # SAM ViT-B, a UNet of Stable Diffusion 1.5's size
    python benchmarks/full_size.py --sam vit_h --dtype bfloat16

Segments one 1024-pixel photo, then takes LoRA steps at 512 pixels, each part in its own process,
and prints a table. Time and memory are the same as with trained weights; only the masks are meaningless.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

SAM_SIZES = {
    # width, layers, heads, layers with global attention, as in SAM's released models
    "vit_b": (768, 12, 12, [2, 5, 8, 11]),
    "vit_l": (1024, 24, 16, [5, 11, 17, 23]),
    "vit_h": (1280, 32, 16, [7, 15, 23, 31]),
}


def measure_segmentation(sam: str, dtype: str, side: int = 1024) -> dict[str, float]:
    """Personalize on a photo and segment it with a random SAM; return seconds and millions of weights."""
    from transformers import SamConfig, SamModel

    from persam_dreambooth.segmentation import PerSAM, Reference

    width, layers, heads, global_layers = SAM_SIZES[sam]
    vision = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "global_attn_indexes": global_layers,
        "mlp_dim": 4 * width,
    }
    model = SamModel(SamConfig(vision_config=vision))
    persam = PerSAM.from_pretrained(model, dtype=getattr(torch, dtype))
    photo = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), dtype=bool)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
    start = time.perf_counter()
    subject = persam.personalize(Reference(photo, mask))
    personalized = time.perf_counter()
    persam.segment(photo, subject)
    return {
        "personalize, seconds": personalized - start,
        "segment, seconds": time.perf_counter() - personalized,
        "weights, millions": sum(weight.numel() for weight in model.parameters()) / 1e6,
    }


def measure_lora_step(steps: int, resolution: int, batch: int, mixed_precision: str) -> dict[str, float]:
    """Take LoRA steps with the trainer's loss on random models of Stable Diffusion 1.5's sizes; return their times."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from persam_dreambooth.training import config as c
    from persam_dreambooth.training.data.dataset import Batch
    from persam_dreambooth.training.families.stable_diffusion import StableDiffusion
    from persam_dreambooth.training.objective import training_loss
    from random_models import byte_tokenizer

    settings = c.TrainingConfig(
        c.ModelConfig(pretrained_model_name_or_path="random", use_lora=True),
        c.DataConfig(instance_data_dir="photos", instance_prompt="a sks dog"),
        c.MaskConfig(instance_mask_dir="masks"),
        c.OptimizationConfig(),
        c.ValidationConfig(),
        c.OutputConfig(),
    )
    tokenizer = byte_tokenizer()
    unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    text = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
    weights = sum(weight.numel() for weight in unet.parameters()) / 1e6
    parts = {"tokenizer": tokenizer, "text_encoder": CLIPTextModel(text), "scheduler": DDPMScheduler()}
    family = StableDiffusion(settings.model, vae=vae, unet=unet, **parts)
    dtype = {"no": torch.float32, "bf16": torch.bfloat16}[mixed_precision]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    family.place(torch.device(device), dtype)
    trainable = [weight for weight in unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trainable, 1e-4)
    tokens = family.tokenize("a sks dog")
    pictures = Batch(
        photos=["random"] * batch,
        mask=torch.ones(batch, 1, resolution, resolution, device=device),
        weight=torch.ones(batch, device=device),
        prompt={key: value.expand(batch, -1).to(device) for key, value in tokens.items()},
        pixels=torch.rand(batch, 3, resolution, resolution, device=device) * 2 - 1,
    )
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        with torch.autocast(device, dtype, enabled=mixed_precision != "no"):
            loss, _ = training_loss(family, pictures, settings)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return {
        "first step, seconds": seconds[0],
        "further steps, seconds (median)": float(np.median(seconds[1:] or seconds)),
        "UNet weights, millions": weights,
        "trained weights, millions": sum(weight.numel() for weight in trainable) / 1e6,
    }


def in_child(arguments: list[str]) -> dict[str, float]:
    """Run one measurement in its own process; return its values and its peak memory."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run([sys.executable, __file__, *arguments, "--write", file.name], check=True)
        return json.loads(Path(file.name).read_text())


def peak_gib() -> dict[str, float]:
    """Return the peak memory of this process, and of the GPU if it used one."""
    peak = {"peak memory, GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        peak["peak GPU memory, GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return peak


def main() -> None:
    """Measure both parts and print them as a table."""
    parser = argparse.ArgumentParser(description="Time and peak memory at real sizes, with random weights.")
    parser.add_argument("--sam", choices=SAM_SIZES, default="vit_b", help="size of the SAM")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="precision of SAM's image encoder"
    )
    parser.add_argument("--steps", type=int, default=3, help="LoRA steps; the first is shown separately")
    parser.add_argument("--resolution", type=int, default=512, help="training resolution in pixels")
    parser.add_argument("--train_batch_size", type=int, default=1, help="photos per step")
    parser.add_argument("--mixed_precision", choices=["no", "bf16"], default="no", help="precision of the LoRA step")
    parser.add_argument("--only", choices=["segment", "train"], help="measure one part")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.write:
        torch.manual_seed(0)
        if flags.only == "segment":
            values = measure_segmentation(flags.sam, flags.dtype)
        else:
            values = measure_lora_step(flags.steps, flags.resolution, flags.train_batch_size, flags.mixed_precision)
        Path(flags.write).write_text(json.dumps(values | peak_gib()))
        return
    passed = sys.argv[1:]
    titles = {
        "segment": f"SAM {flags.sam}, encoder in {flags.dtype}, one 1024-pixel photo",
        "train": f"LoRA rank 4 on an SD 1.5 UNet, {flags.resolution} pixels, batch {flags.train_batch_size}, "
        f"mixed precision {flags.mixed_precision}",
    }
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| measured | value |\n| --- | ---: |")
    for part in [flags.only] if flags.only else list(titles):
        print(f"| **{titles[part]}** | |")
        for name, value in in_child([*passed, *([] if flags.only else ["--only", part])]).items():
            print(f"| {name} | {value:.1f} |")


if __name__ == "__main__":
    main()
