"""Published configurations of base models' denoisers and text encoders: what differs from their classes' defaults."""

from typing import Any

import transformers

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
"""Pipeline and config of the denoiser, by model."""

CLIP_L = (
    transformers.CLIPTextConfig,
    {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
)
CLIP_G = (
    transformers.CLIPTextConfig,
    {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
    },
)
T5_XXL = (
    transformers.T5Config,
    {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu"},
)
GEMMA2_2B = (
    transformers.Gemma2Config,
    {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8}
    | {"num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000},
)
QWEN3_SIZES = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32}
QWEN3_SIZES |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
QWEN3_4B = (transformers.Qwen3Config, QWEN3_SIZES | {"tie_word_embeddings": True})
QWEN3_VL_4B = (
    transformers.Qwen3VLConfig,
    {
        "text_config": QWEN3_SIZES,
        "vision_config": {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "out_hidden_size": 2560},
    },
)
QWEN25_VL_7B = (
    transformers.Qwen2_5_VLConfig,
    {
        "text_config": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
        | {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064},
        "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
        "tie_word_embeddings": False,
    },
)
MISTRAL_SMALL = (
    transformers.Mistral3Config,
    {
        "text_config": {"model_type": "mistral", "hidden_size": 5120, "intermediate_size": 32768}
        | {"num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
        | {"vocab_size": 131072},
        "vision_config": {"model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096}
        | {"num_hidden_layers": 24, "num_attention_heads": 16},
        "tie_word_embeddings": False,
    },
)
ENCODERS: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "SD 1.5": [CLIP_L],
    "SDXL": [CLIP_L, CLIP_G],
    "SD 3.5 medium": [CLIP_L, CLIP_G, T5_XXL],
    "SD 3.5 large": [CLIP_L, CLIP_G, T5_XXL],
    "Lumina 2": [GEMMA2_2B],
    "Z-Image": [QWEN3_4B],
    "Flux.1": [CLIP_L, T5_XXL],
    "Krea 2": [QWEN3_VL_4B],
    "Qwen-Image": [QWEN25_VL_7B],
    "Flux.2": [MISTRAL_SMALL],
}
"""Config class and config of each text encoder, in the order of the family's."""
