"""Adapt generation settings to the keywords of each pipeline's call."""

from inspect import signature
from typing import Any

from persam_dreambooth.errors import UserError


def guided(pipeline: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Rename the guidance scale for Qwen-Image, whose pipeline is guided only with a negative prompt."""
    if type(pipeline).__name__ != "QwenImagePipeline" or settings.get("guidance_scale") is None:
        return settings
    scale = {"true_cfg_scale": settings["guidance_scale"], "negative_prompt": settings.get("negative_prompt") or " "}
    return settings | {"guidance_scale": None} | scale


def accepted(pipeline: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out settings that are unset and unknown to the pipeline: Flux.2 takes no negative prompt.

    Raises:
        UserError: a setting is given that the pipeline does not know.
    """
    known = signature(type(pipeline).__call__).parameters
    for name, value in settings.items():
        if name not in known and value is not None:
            raise UserError(f"--{name} has no use with a {type(pipeline).__name__}; drop it")
    return {name: value for name, value in settings.items() if name in known}
