"""Parts of small pipelines with random weights: autoencoders, U-Nets, text encoders, tokenizers."""

from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

Model = TypeVar("Model", bound=torch.nn.Module)


def draw_weights(model: Model, seed: int, gain: float = 1.0) -> Model:
    """Initialize all weights in the order of their names, so that every version of the libraries gives the same ones.

    It also replaces unusable initial weights: SamModel's encoder starts at 1e-10, which makes all photos look alike.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        if weight.ndim > 1:
            std = 1.0 if "positional" in name else gain * weight[0].numel() ** -0.5
            torch.nn.init.normal_(weight, std=std, generator=generator)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(weight)
    return model.eval()


def random_unet(seed: int, **settings: Any) -> UNet2DConditionModel:
    """A U-Net of two levels; its settings determine the family."""
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
    """CLIP's tokenizer with an alphabet of bytes and no merges: one token per letter, any text."""
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({word: number for number, word in enumerate(words)}, [], model_max_length=max_length)


def letter_tokenizer() -> T5Tokenizer:
    """T5's tokenizer with an alphabet of ASCII: one token per letter."""
    letters = ["<pad>", "</s>", "<unk>", "\u2581", *(chr(code) for code in range(33, 127))]
    return T5Tokenizer([(letter, -1.0) for letter in letters], extra_ids=0, model_max_length=512)
