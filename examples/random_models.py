"""Small real models with random weights: a SAM and pipelines, to try every command without a download.

    python examples/random_models.py models

writes `models/sam` (a transformers SamModel) and `models/stable-diffusion` (a StableDiffusionPipeline);
the other families' pipelines are functions here and in `random_llm_pipelines.py`.
The classes and file formats are those of the real checkpoints. The images are meaningless, because nothing
was trained.
"""

import argparse
from pathlib import Path
from typing import Literal

from diffusers import (
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, SamConfig, SamModel

from random_llm_pipelines import (
    random_flux2,
    random_flux2_klein,
    random_krea2,
    random_lumina2,
    random_qwen_image,
    random_z_image,
)
from random_parts import (
    byte_tokenizer,
    draw_weights,
    letter_tokenizer,
    random_clip,
    random_t5,
    random_unet,
    random_vae,
)


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


def random_stable_diffusion(
    seed: int = 0,
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
    scaling: int = 2,
) -> StableDiffusionPipeline:
    """A Stable Diffusion of 0.3 million weights; each latent cell is `scaling` x `scaling` pixels (a power of 2)."""
    return StableDiffusionPipeline(
        vae=random_vae(seed, scaling),
        text_encoder=random_clip(CLIPTextModel, seed),
        tokenizer=byte_tokenizer(),
        unet=random_unet(seed, sample_size=32, cross_attention_dim=32),
        scheduler=DDPMScheduler(prediction_type=prediction_type, **SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
}


def random_sdxl(seed: int = 0) -> StableDiffusionXLPipeline:
    """A Stable Diffusion XL of 0.4 million weights, latent cells of 2 x 2 pixels."""
    unet = random_unet(
        seed,
        sample_size=16,
        cross_attention_dim=64,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    return StableDiffusionXLPipeline(
        vae=random_vae(seed, 2),
        text_encoder=random_clip(CLIPTextModel, seed),
        text_encoder_2=random_clip(CLIPTextModelWithProjection, seed + 1),
        tokenizer=byte_tokenizer(),
        tokenizer_2=byte_tokenizer(),
        unet=unet,
        scheduler=DDPMScheduler(**SCHEDULE),
    )


def random_sd3(seed: int = 0, with_t5: bool = True) -> StableDiffusion3Pipeline:
    """A Stable Diffusion 3.5 of 0.2 million weights, with or without its T5; cells of 2 x 2 pixels."""
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        pos_embed_max_size=32,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        vae=random_vae(seed, 2, shift=0.06),
        text_encoder=random_clip(CLIPTextModelWithProjection, seed),
        text_encoder_2=random_clip(CLIPTextModelWithProjection, seed + 1),
        text_encoder_3=random_t5(64, seed) if with_t5 else None,
        tokenizer=byte_tokenizer(),
        tokenizer_2=byte_tokenizer(),
        tokenizer_3=letter_tokenizer() if with_t5 else None,
        transformer=draw_weights(transformer, seed),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def random_flux(seed: int = 0, guidance: bool = True) -> FluxPipeline:
    """A Flux.1 of 0.2 million weights, with guidance as an input like dev, or without like schnell."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        vae=random_vae(seed, 2, shift=0.12),
        text_encoder=random_clip(CLIPTextModel, seed),
        text_encoder_2=random_t5(32, seed),
        tokenizer=byte_tokenizer(),
        tokenizer_2=letter_tokenizer(),
        transformer=draw_weights(transformer, seed),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


PIPELINES = {
    "stable-diffusion": random_stable_diffusion,
    "sdxl": random_sdxl,
    "sd3": random_sd3,
    "flux": random_flux,
    "lumina2": random_lumina2,
    "qwen-image": random_qwen_image,
    "flux2-klein": random_flux2_klein,
    "flux2": random_flux2,
    "z-image": random_z_image,
    "krea2": random_krea2,
}


def save_models(folder: Path) -> tuple[Path, Path]:
    """Write a SAM and a Stable Diffusion under `folder`; returns the SAM's and the pipeline's folder."""
    sam, diffusion = folder / "sam", folder / "stable-diffusion"
    random_sam().save_pretrained(sam)
    random_stable_diffusion().save_pretrained(diffusion)
    return sam, diffusion


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a small random SAM and Stable Diffusion.")
    parser.add_argument("folder", type=Path, help="folder in which to write sam/ and stable-diffusion/")
    for written in save_models(parser.parse_args().folder):
        print(written)
