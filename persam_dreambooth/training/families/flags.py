"""Flags that only some families support."""

from typing import Any

from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import ADAPTER_NAMES
from persam_dreambooth.training.config import (
    MaskConfig,
    ModelConfig,
    OptimizationConfig,
    OutputConfig,
    TrainingConfig,
    ValidationConfig,
)

PARTICULAR = (
    *("attention_loss_weight", "class_labels_conditioning", "do_edm_style_training"),
    *("enable_t5_ti", "enable_xformers_memory_efficient_attention", "guidance_scale", "logit_mean", "logit_std"),
    "lora_blocks",
    *("max_sequence_length", "max_token_length", "mode_scale", "offset_noise", "precondition_outputs"),
    *("snr_gamma", "text_encoder_use_attention_mask", "tokenizer_max_length"),
    *("tokenizer_name", "train_text_encoder_ti", "validation_scheduler", "weighting_scheme"),
)
"""Flags that only some families support."""


def check_flags(family: Any, config: TrainingConfig) -> None:
    """Refuse flags that a family does not support.

    Args:
        family: a subclass of `Family`.
        config: all flags.

    Raises:
        UserError: such a flag was given; the message names the first.
    """
    name, given = family.pipeline_class.__name__, config.flat()
    groups = (ModelConfig, MaskConfig, OptimizationConfig, ValidationConfig, OutputConfig)
    defaults = {name: value for group in groups for name, value in vars(group).items()}
    for flag in sorted(set(PARTICULAR) - family.flags):
        if given[flag] != defaults[flag]:
            raise UserError(f"--{flag} has no use with a {name}; drop it")
    if config.output.output_kohya_format and config.model.adapter_type != "lora" and family.denoiser[0] != "unet":
        raise UserError(
            f"--output_kohya_format: {ADAPTER_NAMES[config.model.adapter_type]} of a {name} has no names that all "
            "programs read; drop it, or --adapter_type"
        )
    if config.model.train_text_encoder:
        if not family.lora_encoders:
            raise UserError(f"--train_text_encoder: the text encoder of a {name} cannot be trained; drop it")
        if not config.model.use_lora and not family.whole_encoders:
            raise UserError(
                f"--train_text_encoder: the text encoders of a {name} are trained with --use_lora only; add it, "
                "or drop --train_text_encoder"
            )
