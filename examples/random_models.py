"""Small real models with random weights: a SAM and a Stable Diffusion, to try every command without a download.

    python examples/random_models.py models

writes `models/sam` (a transformers SamModel) and `models/stable-diffusion` (a StableDiffusionPipeline).
The classes and file formats are those of the real checkpoints; the pictures mean nothing, since
nothing was learned.
"""

import argparse
from pathlib import Path
from typing import Literal, TypeVar

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, SamConfig, SamModel
from transformers.convert_slow_tokenizer import bytes_to_unicode

Model = TypeVar("Model", bound=torch.nn.Module)


def random_sam(side: int = 128, seed: int = 0) -> SamModel:
    """A SAM of 0.1 million weights for `side` x `side` pixels (a multiple of 16)."""
    config = SamConfig(
        vision_config={
            "hidden_size": 32,
            "output_channels": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "global_attn_indexes": [1],
            "window_size": 4,
            "num_pos_feats": 16,
            "mlp_dim": 64,
            "image_size": side,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": side, "image_embedding_size": side // 16},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
    )
    return draw_weights(SamModel(config), seed, gain=2.0)


def draw_weights(model: Model, seed: int, gain: float = 1.0) -> Model:
    """Draw all weights anew, by name: the same in every version of the libraries.

    It also mends what a class leaves unusable: SamModel's encoder starts at 1e-10, to which all photos look the same.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        if weight.ndim > 1:
            std = 1.0 if "positional" in name else gain * weight[0].numel() ** -0.5
            torch.nn.init.normal_(weight, std=std, generator=generator)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(weight)
    return model.eval()


def random_stable_diffusion(
    seed: int = 0,
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
    scaling: int = 2,
) -> StableDiffusionPipeline:
    """A Stable Diffusion of 0.3 million weights; each latent cell is `scaling` x `scaling` pixels (a power of 2)."""
    halvings = scaling.bit_length() - 1
    vae = AutoencoderKL(
        block_out_channels=(16,) * (halvings + 1),
        down_block_types=("DownEncoderBlock2D",) * (halvings + 1),
        up_block_types=("UpDecoderBlock2D",) * (halvings + 1),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    tokenizer = byte_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    return StableDiffusionPipeline(
        vae=draw_weights(vae, seed),
        text_encoder=draw_weights(text_encoder, seed),
        tokenizer=tokenizer,
        unet=draw_weights(unet, seed),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def byte_tokenizer(max_length: int = 77) -> CLIPTokenizer:
    """CLIP's tokenizer with an alphabet of bytes and no merges: a token a letter, any text."""
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({word: number for number, word in enumerate(words)}, [], model_max_length=max_length)


def save_models(folder: Path) -> tuple[Path, Path]:
    """Write both models under `folder`; returns the SAM's and the pipeline's folder."""
    sam, diffusion = folder / "sam", folder / "stable-diffusion"
    random_sam().save_pretrained(sam)
    random_stable_diffusion().save_pretrained(diffusion)
    return sam, diffusion


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a small random SAM and Stable Diffusion.")
    parser.add_argument("folder", type=Path, help="where to write sam/ and stable-diffusion/")
    for written in save_models(parser.parse_args().folder):
        print(written)
