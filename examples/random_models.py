"""Small real models with random weights: a SAM and pipelines, to try every command without a download.

    python examples/random_models.py models

writes `models/sam` (a transformers SamModel) and `models/stable-diffusion` (a StableDiffusionPipeline);
the other families' pipelines are functions here.
The classes and file formats are those of the real checkpoints; the pictures mean nothing, since
nothing was learned.
"""

import argparse
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    SamConfig,
    SamModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)
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


def random_lumina2(seed: int = 0) -> Lumina2Pipeline:
    """A Lumina Image 2.0 of 0.1 million weights; cells of 8 x 8 pixels, which its pipeline takes for granted."""
    transformer = Lumina2Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=2,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(300, 64, 64),
        cap_feat_dim=32,
    )
    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *(chr(code) for code in range(33, 127))]
    tokenizer = GemmaTokenizer({letter: number for number, letter in enumerate(letters)}, [])
    encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(letters),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
    )
    return Lumina2Pipeline(
        vae=random_vae(seed, 8, shift=0.12),
        text_encoder=draw_weights(encoder, seed),
        tokenizer=tokenizer,
        transformer=draw_weights(transformer, seed),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
    )


def random_unet(seed: int, **settings: Any) -> UNet2DConditionModel:
    """A U-Net of two levels; the settings are what tells its family."""
    unet = UNet2DConditionModel(
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=8,
        **settings,
    )
    return draw_weights(unet, seed)


def random_vae(seed: int, scaling: int, shift: float | None = None) -> AutoencoderKL:
    """An autoencoder whose latent cells are `scaling` x `scaling` pixels (a power of 2)."""
    halvings = scaling.bit_length() - 1
    vae = AutoencoderKL(
        block_out_channels=(16,) * (halvings + 1),
        down_block_types=("DownEncoderBlock2D",) * (halvings + 1),
        up_block_types=("UpDecoderBlock2D",) * (halvings + 1),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        shift_factor=shift,
    )
    return draw_weights(vae, seed)


def random_clip(kind: type[Model], seed: int) -> Model:
    """A CLIP text encoder of 32 channels."""
    tokenizer = byte_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=37,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return draw_weights(kind(config), seed)


def random_t5(channels: int, seed: int) -> T5EncoderModel:
    """A T5 encoder of two layers."""
    config = T5Config(
        vocab_size=len(letter_tokenizer()),
        d_model=channels,
        d_kv=8,
        d_ff=37,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
    )
    return draw_weights(T5EncoderModel(config), seed)


def byte_tokenizer(max_length: int = 77) -> CLIPTokenizer:
    """CLIP's tokenizer with an alphabet of bytes and no merges: a token a letter, any text."""
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({word: number for number, word in enumerate(words)}, [], model_max_length=max_length)


def letter_tokenizer() -> T5Tokenizer:
    """T5's tokenizer with an alphabet of ASCII: a token a letter."""
    letters = ["<pad>", "</s>", "<unk>", "\u2581", *(chr(code) for code in range(33, 127))]
    return T5Tokenizer([(letter, -1.0) for letter in letters], extra_ids=0, model_max_length=512)


PIPELINES = {
    "stable-diffusion": random_stable_diffusion,
    "sdxl": random_sdxl,
    "sd3": random_sd3,
    "flux": random_flux,
    "lumina2": random_lumina2,
}


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
