"""Inputs of the training benchmarks: models of published sizes with random weights, and drawn photos with masks."""

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from published_models import SDXL_UNET
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from random_models import SCHEDULE, byte_tokenizer


def save_random_sd15(folder: Path, narrow: int) -> None:
    """Save Stable Diffusion 1.5's architecture with random weights and widths divided by `narrow` (1, 2 or 4)."""
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
    counts = {name: sum(weight.numel() for weight in part.parameters()) / 1e6 for name, part in parts.items()}
    print("millions of weights:", ", ".join(f"{name} {count:.1f}" for name, count in counts.items()), "\n")
    StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=DDPMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def save_random_sdxl(folder: Path) -> None:
    """Save SDXL's architecture with random weights in bf16."""
    tokenizers = byte_tokenizer(), byte_tokenizer()
    ends = {"bos_token_id": tokenizers[0].bos_token_id, "eos_token_id": tokenizers[0].eos_token_id}
    large = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    small = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    torch.set_default_dtype(torch.bfloat16)
    StableDiffusionXLPipeline(
        vae=AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(**small, **ends)),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**large, **ends, projection_dim=1280)),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=UNet2DConditionModel(**SDXL_UNET),
        scheduler=DDPMScheduler(**SCHEDULE),
    ).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)


def draw_photos(folder: Path, side: int, count: int) -> None:
    """Draw photos of a disc on noise, `photos/N.jpg`, and the disc as a mask, `masks/N.png`, of `side` pixels."""
    for name in ("photos", "masks"):
        (folder / name).mkdir()
    y, x = np.mgrid[:side, :side] / side - 0.5
    for number in range(count):
        random = np.random.default_rng(number)
        disc = (x - random.uniform(-0.2, 0.2)) ** 2 + (y - random.uniform(-0.2, 0.2)) ** 2 < 0.05
        levels = random.integers(0, 80, (side, side, 3)) + 150 * disc[..., None]
        Image.fromarray(levels.astype(np.uint8)).save(folder / f"photos/{number}.jpg")
        Image.fromarray(disc).save(folder / f"masks/{number}.png")
