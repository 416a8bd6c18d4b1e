"""Load a trained model and generate pictures from prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from tqdm import tqdm

from persam_dreambooth import adapter_files, learned_tokens, long_prompts, model_folder
from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.model_folder import check_available
from persam_dreambooth.model_source import ModelSource
from persam_dreambooth.single_file import is_single_file
from persam_dreambooth.torch_utils import choose_device


@dataclass(frozen=True)
class Picture:
    """A generated picture with everything needed to generate it again."""

    image: Image.Image
    prompt: str
    seed: int


def load_pipeline(
    model: Path | str,
    base_model: Path | str | None = None,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
    single_file_config: str | None = None,
) -> Any:
    """Load a diffusers pipeline from a folder, a checkpoint, a single file, or a hub name.

    Args:
        model: the output folder of a training run or a checkpoint in it, a .safetensors file of LoRA weights or of
            LyCORIS's LoHa or LoKr, or the name of any text-to-image pipeline.
        base_model: needed for LoRA weights or learned embeddings without a training config, which names it otherwise.
        device: None uses the accelerator if there is one.
        dtype: of all weights.
        single_file_config: with a model or a base model in a single file: folder or hub name of a pipeline with its
            configs; None takes the one of the training, or else the original release on the hub.

    Raises:
        UserError: there is no model, or its base model is unknown or missing.
    """
    base = None if base_model is None else str(base_model)
    return load(ModelSource(str(model), base, single_file_config), device, dtype)


def load(model: ModelSource, device: str | None = None, dtype: torch.dtype = torch.float32) -> Any:
    """Load a pipeline as `load_pipeline` does."""
    folder, home = model.path, model.home
    lora, index = model_folder.LORA_NAME, model_folder.PIPELINE_INDEX
    if folder.is_dir() and not model.needs_base and not (folder / index).is_file():
        raise UserError(f"{model} holds neither {index} nor {lora}; give the --output_dir of a finished training")
    on_base, source = model.needs_base, model.whole()
    place = choose_device(device)
    if not is_single_file(source.name):
        check_available(source.name, f"base model of {model}" if on_base else "model")
    what = base = f"the base model {source} of {model}" if on_base else f"the model {source}"
    try:
        pipeline = source.load_whole()
        if on_base:
            what = f"the autoencoder that {folder} was trained with"
            if vae := model_folder.training_settings(home).get("pretrained_vae_model_name_or_path"):
                pipeline.register_modules(vae=type(pipeline.vae).from_pretrained(vae))
        for name in model_folder.trained_parts(folder):
            what = f"the weights in {folder / name}"
            own = type(getattr(pipeline, name)).from_pretrained(folder / name, use_safetensors=True)
            pipeline.register_modules(**{name: own})
        if model.is_lora:
            what = f"the {'LoRA weights' if (folder / lora).is_file() else 'adapters'} in {folder}"
            _attach_adapters(pipeline, folder)
        if model_folder.needs_base(folder) and (folder / model_folder.EMBEDDINGS_NAME).is_file():
            what = f"the embeddings in {folder}"
            learned_tokens.attach(pipeline, folder)
    except UserError:
        raise
    except Exception as error:  # missing, damaged and foreign files all raise different exceptions
        reason = first_line(error)
        if what == base and not source.path.exists():
            reason = "no such folder, and no model of that name can be reached"
        raise UserError(f"{what} cannot be loaded ({reason}); check the name, or download it again") from error
    # The token limit of the training's prompts, so that `draw` encodes prompts in the same way.
    pipeline.max_token_length = model_folder.training_settings(home).get("max_token_length")
    pipeline.to(place, dtype)  # always cast: a model stored in fp16 can load in mixed precision
    _make_ready(pipeline, what)
    return pipeline


def _attach_adapters(pipeline: Any, path: Path) -> None:
    """Add the LoRA or other adapters of a file or folder; a folder may hold learned embeddings alone."""
    if path.is_file():
        adapter_files.attach_file(pipeline, path)
        return
    for part in model_folder.adapter_folders(path):
        adapter_files.attach(getattr(pipeline, part.name), part)
    if (path / model_folder.LORA_NAME).is_file():
        pipeline.load_lora_weights(path, weight_name=model_folder.LORA_NAME)


def _make_ready(pipeline: Any, what: str) -> None:
    """Switch off all dropout, including that of adapters, and check that all weights are finite.

    Raises:
        UserError: some weights are NaN or infinite; every picture would be black.
    """
    pipeline.set_progress_bar_config(disable=True)
    for name, part in pipeline.components.items():
        if not isinstance(part, torch.nn.Module):
            continue
        part.eval()  # adapters are loaded in training mode
        if not all(bool(weight.isfinite().all()) for weight in part.parameters()):
            raise UserError(f"{what} cannot be used: {name} holds weights that are NaN or infinite; train it again")


def generate(
    pipeline: Any,
    prompts: Sequence[str],
    num_images: int = 4,
    seed: int = 0,
    each: Callable[[Picture], None] = lambda picture: None,
    **settings: Any,
) -> list[Picture]:
    """Generate `num_images` pictures for every prompt; picture i of each prompt has seed `seed` + i.

    Pictures are generated one at a time, so that each is the same whatever else is generated.

    Args:
        pipeline: from `load_pipeline`.
        prompts: the texts.
        num_images: pictures per prompt.
        seed: of the first picture of each prompt.
        each: called with every picture as soon as it is finished.
        settings: passed on to the pipeline (num_inference_steps, guidance_scale, height, width, ...).

    Returns:
        The pictures, prompt by prompt.

    Raises:
        UserError: the pipeline rejects the settings.
    """
    pictures = []
    with tqdm(total=len(prompts) * num_images, desc="Generating", unit="image") as progress:
        for prompt in prompts:
            for number in range(num_images):
                pictures.append(draw(pipeline, prompt, seed + number, **settings))
                each(pictures[-1])
                progress.update()
    return pictures


def draw(pipeline: Any, prompt: str, seed: int, **settings: Any) -> Picture:
    """Generate one picture; see `generate`."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator(pipeline.device).manual_seed(seed)
    try:
        named = _accepted(pipeline, _guided(pipeline, settings))
        limit = getattr(pipeline, "max_token_length", None)
        # The prompt is passed by keyword: Flux.2's first argument is a picture. Levels are (1, H, W, 3) in [0, 1].
        named |= long_prompts.arguments(pipeline, prompt, named.get("negative_prompt"), limit)
        levels = pipeline(generator=generator, output_type="np", **named).images
    except ValueError as error:  # such as a size that is not a multiple of 8
        raise UserError(f"the model rejects these settings: {str(error).splitlines()[0]}") from error
    if not np.isfinite(levels).all():
        raise UserError(
            f"the model generated NaN for {prompt!r}: float16 is too narrow for some models, use --dtype bfloat16 or "
            "float32; or its weights are damaged"
        )
    return Picture(DiffusionPipeline.numpy_to_pil(levels)[0], prompt, seed)


def _guided(pipeline: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Rename the guidance scale for Qwen-Image, whose pipeline is guided only with a negative prompt."""
    if type(pipeline).__name__ != "QwenImagePipeline" or settings.get("guidance_scale") is None:
        return settings
    scale = {"true_cfg_scale": settings["guidance_scale"], "negative_prompt": settings.get("negative_prompt") or " "}
    return settings | {"guidance_scale": None} | scale


def _accepted(pipeline: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out settings that are unset and unknown to the pipeline: Flux.2 takes no negative prompt.

    Raises:
        UserError: a setting is given that the pipeline does not know.
    """
    known = signature(type(pipeline).__call__).parameters
    for name, value in settings.items():
        if name not in known and value is not None:
            raise UserError(f"--{name} has no use with a {type(pipeline).__name__}; drop it")
    return {name: value for name, value in settings.items() if name in known}
