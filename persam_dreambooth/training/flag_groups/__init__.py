"""Every flag of the trainer, a dataclass per file; the names are those of diffusers' DreamBooth scripts.

Those of their flags that do not exist here are in `REFUSED`, each with the reason.
"""

from persam_dreambooth.training.flag_groups.data import DataConfig
from persam_dreambooth.training.flag_groups.masks import MaskConfig
from persam_dreambooth.training.flag_groups.model import TOKEN_LIMITS, ModelConfig
from persam_dreambooth.training.flag_groups.optimization import OptimizationConfig
from persam_dreambooth.training.flag_groups.output import OutputConfig
from persam_dreambooth.training.flag_groups.validation import ValidationConfig

__all__ = [
    "GROUPS",
    "REFUSED",
    "TOKEN_LIMITS",
    "DataConfig",
    "MaskConfig",
    "ModelConfig",
    "OptimizationConfig",
    "OutputConfig",
    "ValidationConfig",
]
GROUPS = [ModelConfig, DataConfig, MaskConfig, OptimizationConfig, ValidationConfig, OutputConfig]
"""The dataclasses in the order of the help and of saved settings."""

REFUSED = {
    "enable_npu_flash_attention": "torch chooses the attention kernel, and NPUs have not been tried; drop it",
    "fsdp_text_encoder": "FSDP shards the trained model only; --pre_compute_text_embeddings frees the text encoder",
    "pretrained_text_encoder_4_name_or_path": "Qwen-Image has one text encoder, its script never reads this; drop it",
    "pretrained_tokenizer_4_name_or_path": "Qwen-Image has one tokenizer, and its script never reads this; drop it",
    "remote_text_encoder": "prompts are encoded on this machine; --pre_compute_text_embeddings then frees the encoder",
    "system_prompt": "training and generation both use the pipeline's own system prompt; drop it",
    "text_encoder_out_layers": "training uses the layers that the pipeline generates with; drop it",
    "validation_guidance_scale": "validation images use the pipeline's own guidance; drop it",
    "validation_images": "it is for pipelines that start from an image, which are not trained here; drop it",
    "validation_model_path": "validation images are drawn by the base model that is trained; drop it",
    "validation_num_inference_steps": "validation images take 25 steps; drop it",
}
"""Flags of diffusers' DreamBooth scripts that are refused by name, each with the reason."""
