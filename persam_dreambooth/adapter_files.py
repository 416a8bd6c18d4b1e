"""Adapters other than LoRA: in peft's own folders, one for each part of a pipeline, or in LyCORIS's files.

A file of LyCORIS has layers under kohya's names and weights such as `hada_w1_a` (LoHa, arXiv 2108.06098) or `lokr_w1`
(LoKr, arXiv 2309.14859), with shapes of its own choice. peft computes with the same weights under the same names.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers
from peft import LoHaConfig, LoKrConfig, PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lycoris_utils import LycorisLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from persam_dreambooth.errors import UserError

PREFIX = "base_model.model."
"""Prefix of the keys in peft's files: its name for the model inside a `PeftModel`."""


def save(module: Any, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, as `PeftModel.from_pretrained` reads them.

    Args:
        module: a model of diffusers or transformers with one adapter.
        folder: is created.
        dtype: of the weights in the file.
    """
    folder.mkdir()
    config = copy.copy(module.peft_config["default"])
    config.inference_mode, config.target_modules = True, sorted(config.target_modules)  # a set's order is random
    config.save_pretrained(folder)
    weights = get_peft_model_state_dict(module, save_embedding_layers=False)
    weights = {f"{PREFIX}{key}": value.to(dtype).contiguous() for key, value in weights.items()}
    save_file(weights, folder / SAFETENSORS_WEIGHTS_NAME, {"format": "pt"})


def load(module: Any, folder: Path) -> None:
    """Load weights from a folder that `save` wrote into a model that already has such adapters.

    Raises:
        ValueError: weights are missing or unknown.
    """
    weights = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
    own = get_peft_model_state_dict(module, save_embedding_layers=False)
    different = {key.removeprefix(PREFIX) for key in weights} ^ set(own)
    if different:
        raise ValueError(f"{folder.name}'s adapters do not fit: {min(different)}")
    set_peft_model_state_dict(module, weights)


def attach(module: Any, folder: Path) -> None:
    """Add the adapters of a folder to a model without any; errors as `load`."""
    module.add_adapter(PeftConfig.from_pretrained(str(folder)))
    load(module, folder)


PARTS = {
    "lora_unet_": "unet",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te_": "text_encoder",
}
"""Beginnings of the layers' names in kohya's format, and the parts of a pipeline."""
LYCORIS = {"hada_": LoHaConfig, "lokr_": LoKrConfig}
"""Beginnings of the weights' names in LyCORIS's format, and peft's settings."""
LORA = (".lora_down.", ".lora_A.", ".lora.down.", "_lora.down.", ".lora_linear_layer.down.")
SGM = {
    "input_blocks_0_0": "conv_in",
    "input_blocks": "down_blocks",
    "middle_block": "mid_block",
    "output_blocks": "up_blocks",
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
    "downsamplers_0_op": "downsamplers_0_conv",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
    "lora_unet_out_2": "lora_unet_conv_out",
}
"""Parts of the names of SDXL's layers in the original code, which sd-scripts uses, and in diffusers.

They are replaced in this order, once diffusers' function has numbered the blocks."""


def is_adapter_file(path: Path) -> bool:
    """Return whether a file holds LoRA weights or other adapters, and not a whole model, by its header."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
    except (OSError, SafetensorError):  # reported where the file is read
        return False
    words = (*LORA, *(f".{kind}" for kind in LYCORIS), ".oft_")
    return any(word in key for key in keys for word in words)


def attach_file(pipeline: Any, path: Path) -> None:
    """Add the adapters of a file to a pipeline: LoRA that diffusers reads, or LyCORIS's LoHa or LoKr.

    Raises:
        UserError: other kinds of adapters, or layers that the pipeline does not have.
        ValueError: weights that do not fit a layer.
    """
    state = load_file(path)
    if not any(f".{kind}" in key for key in state for kind in (*LYCORIS, "oft_")):
        pipeline.load_lora_weights(path.parent, weight_name=path.name)
        return
    if hasattr(pipeline, "unet"):
        state = _diffusers_names(state, pipeline.unet.config)
    for part, layers in _layers(pipeline, state, path).items():
        _attach_layers(getattr(pipeline, part), layers, path)


def _diffusers_names(state: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Rename the layers of SDXL's UNet from the original code's names, if they have these."""
    names = _maybe_map_sgm_blocks_to_diffusers(dict(state), config)
    if names.keys() == state.keys():
        return state
    for old, new in SGM.items():
        names = {key.replace(old, new) if key.startswith("lora_unet_") else key: names[key] for key in names}
    return names


def _layers(pipeline: Any, state: Mapping[str, Tensor], path: Path) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Sort weights by the part, the layer in it, and their own name."""
    known = {}
    for prefix, part in PARTS.items():
        for name, module in getattr(pipeline, part, nn.Module()).named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                spelled = name if part == "unet" else clip_layer(name)
                known[prefix + spelled.replace(".", "_")] = (part, name)
    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    for key, value in state.items():
        layer, _, kind = key.partition(".")
        if layer not in known:
            raise UserError(
                f"{path} adapts a layer {layer}, which a {type(pipeline).__name__} of this base does not have; "
                "give the base model that it was trained on"
            )
        part, name = known[layer]
        found.setdefault(part, {}).setdefault(name, {})[kind] = value
    return found


def clip_layer(name: str) -> str:
    """Return the name of a layer of CLIP in these formats: transformers' before 5, which flattened CLIPTextModel."""
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


@torch.no_grad()
def _attach_layers(module: Any, layers: Mapping[str, dict[str, Tensor]], path: Path) -> None:
    """Add adapters to the layers of a part, with the weights of the file in the place of peft's."""
    kinds = {kind for weights in layers.values() for kind in weights} - {"alpha"}
    configs = [config for start, config in LYCORIS.items() if all(kind.startswith(start) for kind in kinds)]
    if not configs:
        other = min((kind for kind in kinds if not kind.startswith(tuple(LYCORIS))), default="LoHa beside LoKr")
        raise UserError(f"{path} has {other}, which is not read; give a file of plain LoRA, LoHa or LoKr")
    module.add_adapter(configs[0](target_modules=list(layers)))
    for name, weights in layers.items():
        layer = module.get_submodule(name)
        assert isinstance(layer, LycorisLayer)
        base = layer.get_base_layer().weight
        assert isinstance(base, Tensor)
        for kind in layer.adapter_layer_names:
            own = getattr(layer, kind)
            if "default" in own:
                own.pop("default")
            if kind in weights:
                own["default"] = nn.Parameter(weights[kind].to(base), requires_grad=False)
        rank, alpha = _rank_and_alpha(weights)
        layer.r["default"], layer.alpha["default"], layer.scaling["default"] = rank, alpha, alpha / rank
        try:
            layer.get_delta_weight("default")
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"the weights of {name} do not fit its {tuple(base.shape)}") from error


def _rank_and_alpha(weights: Mapping[str, Tensor]) -> tuple[int, float]:
    """Return the rank of a layer's factors and its alpha; full factors have no rank, and their alpha no meaning."""
    factors = [weights[kind] for kind in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b") if kind in weights]
    if not factors:
        return 1, 1.0
    rank = factors[0].shape[0]
    return rank, float(weights.get("alpha", torch.tensor(0))) or float(rank)
