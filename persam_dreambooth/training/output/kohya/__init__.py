"""LoRA weights in the format of kohya's sd-scripts, for A1111's web UI, Forge and ComfyUI."""

from persam_dreambooth.training.output.kohya.files import convert_file, convert_lora
from persam_dreambooth.training.output.kohya.weights import to_kohya

__all__ = ["convert_file", "convert_lora", "to_kohya"]
