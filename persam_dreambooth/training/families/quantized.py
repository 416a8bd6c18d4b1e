"""A denoiser in fewer bits: frozen weights stored in 8 or 4 as the base of LoRA, or products of 8-bit floats."""

import inspect
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import BitsAndBytesConfig, TorchAoConfig
from peft import prepare_model_for_kbit_training
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.training.config import ModelConfig

PATH_FLAG = "--bnb_quantization_config_path"
FP8_CAPABILITY = (8, 9)
"""Compute capability of the first GPUs that multiply 8-bit floats."""


def check(config: ModelConfig, device: torch.device) -> None:
    """Refuse, before anything is loaded, a quantization that cannot work here.

    Args:
        config: `--quantize`, `--bnb_quantization_config_path` and `--do_fp8_training`.
        device: of the training.

    Raises:
        UserError: a package is missing, the file is not a config of bitsandbytes, or it needs another device.
    """
    if (config.quantize or config.do_fp8_training) and find_spec("torchao") is None:
        said = f"--quantize {config.quantize}" if config.quantize else "--do_fp8_training"
        raise UserError(f"{said} needs `pip install torchao`")
    if config.do_fp8_training and not _multiplies_8_bits(device):
        raise UserError(
            "--do_fp8_training needs a GPU that multiplies 8-bit floats (compute capability 8.9 or higher), which "
            f"this {device.type} is not; drop it, or take --quantize fp8, which only stores them"
        )
    if config.bnb_quantization_config_path:
        said = f"{PATH_FLAG} {config.bnb_quantization_config_path}"
        _read(config.bnb_quantization_config_path, said)
        if find_spec("bitsandbytes") is None:
            raise UserError(f"{said} needs `pip install bitsandbytes`")
        if device.type == "cpu":
            raise UserError(
                f"{said} needs a GPU, without which diffusers does not quantize with bitsandbytes; on a CPU take "
                "--quantize int8"
            )


def _multiplies_8_bits(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY


def settings(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that quantize the denoiser while it is loaded; none without a flag.

    Args:
        config: the run's.
        dtype: of the weights that are not quantized, and of the computation.
    """
    chosen = _config(config, dtype)
    return {} if chosen is None else {"quantization_config": chosen, "torch_dtype": dtype}


def _config(config: ModelConfig, dtype: torch.dtype) -> Any:
    if config.bnb_quantization_config_path:
        read = _read(config.bnb_quantization_config_path, PATH_FLAG)
        if read.get("load_in_4bit"):
            read["bnb_4bit_compute_dtype"] = dtype  # as in diffusers' scripts
        return BitsAndBytesConfig(**read)
    if config.quantize is None:
        return None
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    return TorchAoConfig({"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}[config.quantize]())


def _read(path: str, said: str) -> dict[str, Any]:
    """Read a JSON file of `BitsAndBytesConfig`'s arguments."""
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{said} cannot be read as JSON ({first_line(error)}); correct it") from error
    known = set(inspect.signature(BitsAndBytesConfig).parameters) - {"kwargs"}
    if not isinstance(read, dict) or not (read.get("load_in_4bit") or read.get("load_in_8bit")):
        raise UserError(f'{said} must be an object with "load_in_4bit": true or "load_in_8bit": true')
    if unknown := sorted(set(read) - known):
        raise UserError(f"{said}: {unknown[0]} is unknown; choose among {', '.join(sorted(known))}")
    return read


def prepared(model: Any) -> Any:
    """Prepare a model that was loaded with `settings` for adapters (bitsandbytes: as in diffusers' scripts)."""
    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return keep_packed(model)


def multiply_8_bits(model: nn.Module) -> None:
    """Make a model's linear layers multiply in 8-bit floats, forward and backward, as diffusers' scripts do.

    The weights stay as they are, and are cast in every product (torchao's dynamic scaling of tensors). The layer
    `proj_out`, and those of sizes that are no multiples of 16, are left out.

    Args:
        model: without adapters yet.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    settings = Float8LinearConfig(pad_inner_dim=True)
    convert_to_float8_training(model, module_filter_fn=_fits_8_bits, config=settings)


def _fits_8_bits(layer: nn.Module, name: str) -> bool:
    sizes = (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else ()
    return name != "proj_out" and all(size % 16 == 0 for size in sizes)


def keep_packed(module: nn.Module) -> nn.Module:
    """Make torchao's linear layers dequantize their weights again in the backward pass; return the model.

    torchao's own forward keeps a dense copy of each weight in the graph until the backward pass, which takes back all
    that quantizing saves, unless activations are checkpointed.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and is_traceable_wrapper_subclass(layer.weight):
            layer.requires_grad_(False)
            layer.__class__ = PackedLinear
    return module


def finish(model: Any, config: ModelConfig, dtype: torch.dtype) -> None:
    """Cast the frozen linear layers of `--layerwise_upcasting_storage_dtype`, and make DDP skip what has 8 bits.

    DDP cannot send such weights, which each process loads for itself. Convolutions are not cast: unlike linear
    layers, they look up their weight again in the backward pass, when it is stored in 8 bits.

    Args:
        model: with adapters, which stay as they are; in its place and precision.
        config: the run's.
        dtype: of what is computed.
    """
    storage = config.layerwise_upcasting_storage_dtype
    if storage:
        skipped = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        model.enable_layerwise_casting(getattr(torch, storage), dtype, skip_modules_classes=skipped)
    if storage or config.quantize:
        small = [name for name, weight in model.named_parameters() if _has_8_bits(weight)]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, small)


def _has_8_bits(weight: Tensor) -> bool:
    return is_traceable_wrapper_subclass(weight) or weight.dtype.itemsize == 1


class PackedLinear(nn.Linear):
    """A frozen linear layer with a quantized weight."""

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b, for x of shape (..., in), in x's dtype."""
        product: Tensor = _TimesFrozen.apply(input, self.weight)
        return product if self.bias is None else product + self.bias.to(product.dtype)


class _TimesFrozen(torch.autograd.Function):
    """x W^T, whose graph holds W as it is stored; the gradient with respect to x is g W."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Any) -> Tensor:
        context.weight = weight
        return F.linear(x, weight.dequantize().to(x.dtype))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ context.weight.dequantize().to(gradient.dtype), None


def stored_bytes(tensor: Tensor) -> int:
    """Return the bytes that a tensor takes, with the scales of a quantized one."""
    if is_traceable_wrapper_subclass(tensor):
        return sum(stored_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.itemsize
