"""Estimate the memory of a training from its parameter counts: weights, gradients, optimizer states, EMA."""

from collections import Counter
from collections.abc import Iterable

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.families import Family
from persam_dreambooth.training.families.quantized import stored_bytes
from persam_dreambooth.training.runtime.optimizer import STATE_BYTES

EMA_BYTES = 4


def lines(family: Family, config: TrainingConfig) -> list[str]:
    """Return the estimate as lines for the screen: the sum, then each of the `terms`; same arguments."""
    sizes = terms(family, config)
    total = in_words(sum(sizes.values()))
    return [
        f"memory, estimated: {total} in each process, without activations (add those of a step)",
        *(f"  {name}: {in_words(size)}" for name, size in sizes.items()),
    ]


def terms(family: Family, config: TrainingConfig) -> dict[str, int]:
    """Estimate the memory in bytes, by what it is for.

    Activations are not included: they depend on the resolution, the batch and `--gradient_checkpointing`, and only a
    step shows them. The parts that `--cache_latents` and `--pre_compute_text_embeddings` remove are left out.

    Args:
        family: after `Family.place`, so that each weight has its training precision.
        config: the run's.
    """
    modules = _kept(family, config)
    weights, size = Counter[str](), 0
    for weight in _unique(modules):
        weights[_precision(weight)] += weight.numel()
        size += stored_bytes(weight)
    trained = [weight for weight in _unique(modules) if weight.requires_grad]
    learned = sum(weight.numel() for weight in trained)
    sizes = {
        f"weights ({_by_precision(weights)})": size,
        "gradients": sum(weight.numel() * weight.dtype.itemsize for weight in trained),
        f"states of {config.optimization.optimizer}": learned * STATE_BYTES[config.optimization.optimizer],
    }
    if config.optimization.use_ema:
        sizes["moving average"] = learned * EMA_BYTES
    return sizes


def _kept(family: Family, config: TrainingConfig) -> list[nn.Module]:
    """Return the modules that stay on the device while training, the background prior's frozen copies included."""
    dropped = {"vae"} if config.data.cache_latents else set[str]()
    if config.model.pre_compute_text_embeddings:
        dropped |= set(family.encoders)
    names = ("vae", *family.encoders, family.denoiser[0])
    parts = [getattr(family, name) for name in names if name not in dropped]
    return [part for part in (*parts, *family.base.values()) if part is not None]


def _unique(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Return all weights, each once even if two modules share it."""
    return list(dict.fromkeys(weight for module in modules for weight in module.parameters()))


def _precision(weight: Tensor) -> str:
    """Return the name of the dtype in which a weight, or the largest part of a quantized one, is stored."""
    if is_traceable_wrapper_subclass(weight):
        parts = [getattr(weight, name) for name in weight.__tensor_flatten__()[0]]
        weight = max(parts, key=Tensor.numel)
    return str(weight.dtype).removeprefix("torch.")


def _by_precision(weights: Counter[str]) -> str:
    return ", ".join(f"{number / 1e6:.4g} M in {kind}" for kind, number in weights.most_common())


def in_words(size: int) -> str:
    """Write a number of bytes in GB, MB or kB of powers of ten, to three digits."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"
