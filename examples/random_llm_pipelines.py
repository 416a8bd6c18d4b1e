"""Small random pipelines of the families whose prompts a language model encodes; none has a CLIP or T5."""

from typing import Any

from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from random_parts import draw_weights, random_vae


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


def random_qwen_image(seed: int = 0) -> QwenImagePipeline:
    """A Qwen-Image of 0.2 million weights; cells of 2 x 2 pixels."""
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    tokenizer = qwen_tokenizer()
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    rotary = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    text = language_model(tokenizer) | {"rope_parameters": rotary}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    return QwenImagePipeline(
        vae=random_qwen_vae(seed),
        text_encoder=draw_weights(encoder, seed),
        tokenizer=tokenizer,
        transformer=draw_weights(transformer, seed),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )


def random_qwen_vae(seed: int) -> AutoencoderKLQwenImage:
    """Qwen-Image's autoencoder, which takes a picture for a film of one frame; cells of 2 x 2 pixels."""
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.4],
        latents_std=[0.5, 1.0, 2.0, 4.0],
    )
    return draw_weights(vae, seed)


def language_model(tokenizer: Qwen2Tokenizer, **settings: Any) -> dict[str, Any]:
    """Settings of a language model of 32 channels."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    } | settings


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Qwen's tokenizer with an alphabet of bytes and no merges: a token a letter, any text."""
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_to_unicode().values()]
    return Qwen2Tokenizer({word: number for number, word in enumerate(words)}, [])
