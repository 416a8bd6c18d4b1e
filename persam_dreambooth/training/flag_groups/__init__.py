"""Every flag of the trainer, a dataclass per file; the names are those of diffusers' DreamBooth scripts.

Those of their flags that are not here are in `refused_flags`, each with the reason.
"""

from persam_dreambooth.training.flag_groups.data import DataConfig
from persam_dreambooth.training.flag_groups.masks import MaskConfig
from persam_dreambooth.training.flag_groups.model import TOKEN_LIMITS, ModelConfig
from persam_dreambooth.training.flag_groups.optimization import OptimizationConfig
from persam_dreambooth.training.flag_groups.output import OutputConfig
from persam_dreambooth.training.flag_groups.validation import ValidationConfig

__all__ = [
    "GROUPS",
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
