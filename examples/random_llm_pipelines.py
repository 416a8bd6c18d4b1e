"""Small random pipelines of the families whose prompts a language model encodes; none has a CLIP or T5."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLModel,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from random_parts import draw_weights, random_vae


def random_lumina2(seed: int = 0) -> Lumina2Pipeline:
    """A Lumina Image 2.0 of 0.1 million weights; cells of 8 x 8 pixels, which its pipeline assumes."""
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
    encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=language_model(tokenizer) | ROTARY, vision_config=VISION)
    )
    return QwenImagePipeline(
        vae=random_qwen_vae(seed),
        text_encoder=draw_weights(encoder, seed),
        tokenizer=tokenizer,
        transformer=draw_weights(transformer, seed),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )


def random_flux2_klein(seed: int = 0) -> Flux2KleinPipeline:
    """A Flux.2 Klein of 0.4 million weights; cells of 2 x 2 pixels."""
    tokenizer = qwen_tokenizer()
    encoder = Qwen3ForCausalLM(Qwen3Config(**language_model(tokenizer, num_hidden_layers=28)))
    return Flux2KleinPipeline(
        vae=random_flux2_vae(seed),
        text_encoder=draw_weights(encoder, seed),
        tokenizer=tokenizer,
        transformer=random_flux2_transformer(seed, guidance_embeds=False),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


def random_flux2(seed: int = 0) -> Flux2Pipeline:
    """A Flux.2 of 0.4 million weights, with guidance as an input; cells of 2 x 2 pixels."""
    template = "{% for message in messages %}[{{ message.role }}]{{ message.content[0].text }}{% endfor %}"
    tokenizer = qwen_tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    encoder = Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config=language_model(tokenizer, model_type="mistral", num_hidden_layers=31),
            vision_config=vision | {"model_type": "pixtral", "image_size": 32, "patch_size": 8},
            image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        )
    )
    return Flux2Pipeline(
        vae=random_flux2_vae(seed),
        text_encoder=draw_weights(encoder, seed),
        tokenizer=PixtralProcessor(PixtralImageProcessor(), tokenizer, patch_size=8, chat_template=template),
        transformer=random_flux2_transformer(seed, guidance_embeds=True),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


def random_flux2_transformer(seed: int, guidance_embeds: bool) -> Flux2Transformer2DModel:
    """Flux.2's transformer with a double and a single block."""
    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * 32,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )
    return draw_weights(transformer, seed)


def random_flux2_vae(seed: int) -> AutoencoderKLFlux2:
    """Flux.2's autoencoder, with statistics for each channel and position in a patch; cells of 2 x 2 pixels."""
    vae = AutoencoderKLFlux2(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        layers_per_block=1,
        sample_size=64,
    )
    channels = len(vae.bn.running_mean)
    vae.bn.running_mean.copy_(torch.linspace(-0.5, 0.5, channels))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2.0, channels))
    return draw_weights(vae, seed)


def random_z_image(seed: int = 0) -> ZImagePipeline:
    """A Z-Image of 0.3 million weights; cells of 2 x 2 pixels."""
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 64, 64],
    )
    tokenizer = qwen_tokenizer()
    return ZImagePipeline(
        vae=random_vae(seed, 2, shift=0.12),
        text_encoder=draw_weights(Qwen3Model(Qwen3Config(**language_model(tokenizer))), seed),
        tokenizer=tokenizer,
        transformer=draw_weights(transformer, seed),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
    )


def random_krea2(seed: int = 0) -> Krea2Pipeline:
    """A Krea 2 of 0.2 million weights; cells of 2 x 2 pixels."""
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=32,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    tokenizer = qwen_tokenizer()
    encoder = Qwen3VLModel(
        Qwen3VLConfig(
            text_config=language_model(tokenizer) | ROTARY, vision_config=VISION | {"deepstack_visual_indexes": [0]}
        )
    )
    return Krea2Pipeline(
        vae=random_qwen_vae(seed),
        text_encoder=draw_weights(encoder, seed),
        tokenizer=tokenizer,
        transformer=draw_weights(transformer, seed),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15),
        text_encoder_select_layers=(0, 1, 2),
    )


def random_qwen_vae(seed: int) -> AutoencoderKLQwenImage:
    """Qwen-Image's video autoencoder, which treats a picture as a video of one frame; cells of 2 x 2 pixels."""
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


# Qwen's vision-language models need a vision encoder, which prompts do not use, and positions in time, height, width.
VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
ROTARY = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}}

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{% if not enable_thinking %}-{% endif %}"
)


def qwen_tokenizer(*special: str) -> Qwen2Tokenizer:
    """Qwen's tokenizer with an alphabet of bytes and no merges: one token per letter, any text; and special tokens."""
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special]
    words = {word: number for number, word in enumerate([*marks, *bytes_to_unicode().values()])}
    return Qwen2Tokenizer(words, [], additional_special_tokens=marks[1:], chat_template=CHAT)
