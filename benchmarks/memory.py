"""Memory of the base models' weights by precision, counted from their published configurations; nothing is downloaded.

    python benchmarks/memory.py

The models are built without storage (torch's meta device). Adapters, optimizer and activations are not in the table,
and prompts and photos are encoded before training (`--pre_compute_text_embeddings --cache_latents`), so that the
denoiser is the only model. `--dry_run` estimates a run of yours, its adapters and optimizer included.
"""

from typing import Any

import torch
from torch import Tensor, nn

from persam_dreambooth.training.families import FAMILIES

SDXL_UNET = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
}
SD3 = {"sample_size": 128, "joint_attention_dim": 4096, "qk_norm": "rms_norm"}
MEDIUM = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384}
LARGE = {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "pos_embed_max_size": 192}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    # Pipeline and the published config of its denoiser, as far as it differs from the defaults of diffusers' class.
    "SD 1.5": ("StableDiffusionPipeline", {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}),
    "SDXL": ("StableDiffusionXLPipeline", SDXL_UNET),
    "SD 3.5 medium": ("StableDiffusion3Pipeline", SD3 | MEDIUM | {"dual_attention_layers": tuple(range(13))}),
    "SD 3.5 large": ("StableDiffusion3Pipeline", SD3 | LARGE),
    "Lumina 2": ("Lumina2Pipeline", {}),
    "Z-Image": ("ZImagePipeline", {}),
    "Flux.1": ("FluxPipeline", {"guidance_embeds": True}),
    "Krea 2": ("Krea2Pipeline", {}),
    "Qwen-Image": ("QwenImagePipeline", {}),
    "Flux.2": ("Flux2Pipeline", {}),
}


def count(model: str) -> tuple[int, int, int]:
    """Count a denoiser's weights, those of its linear layers (the quantized ones), and their rows."""
    pipeline, settings = MODELS[model]
    with torch.device("meta"):
        denoiser: nn.Module = FAMILIES[pipeline].denoiser[1](**settings)
    linear = [layer.weight for layer in denoiser.modules() if isinstance(layer, nn.Linear)]
    rows = sum(len(weight) for weight in linear)
    return sum(map(Tensor.numel, denoiser.parameters())), sum(map(Tensor.numel, linear)), rows


def print_counted() -> None:
    """Count the weights of all models."""
    print("| the denoiser's weights, counted | float32 | bf16 | int8 or fp8 | in linear layers |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for model in MODELS:
        weights, linear, rows = count(model)
        packed = linear + 4 * rows + 2 * (weights - linear)  # a byte each, a float32 scale a row, the rest in bf16
        cells = " | ".join(f"{size / 1e9:.1f} GB" for size in (4 * weights, 2 * weights, packed))
        print(f"| {model} | {cells} | {linear / weights:.0%} of {weights / 1e9:.2f} billion |", flush=True)


if __name__ == "__main__":
    print_counted()
