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
    total, before = sum(sizes.values()), while_encoding(family, config)
    advice = "" if config.model.offload else "; less with --offload"
    more = [f"  before, while prompts and photos are encoded: {in_words(before)}{advice}"] if before > total else []
    return [
        f"memory, estimated: {in_words(total)} in each process, without activations (add those of a step)",
        *(f"  {name}: {in_words(size)}" for name, size in sizes.items()),
        *more,
    ]


def terms(family: Family, config: TrainingConfig) -> dict[str, int]:
    """Estimate the memory in bytes, by what it is for.

    Activations are not included: they depend on the resolution, the batch and `--gradient_checkpointing`, and only a
    step shows them. The parts that `--cache_latents` and `--pre_compute_text_embeddings` remove are left out; of those
    that `--offload` moves, the larger of autoencoder and text encoders counts, as they are not used at once.

    Args:
        family: after `Family.place`, so that each weight has its training precision.
        config: the run's.
    """
    resident, moved = _kept(family, config)
    modules = resident if config.model.offload else [*resident, *(part for parts in moved for part in parts)]
    weights = Counter[str]()
    for weight in _unique(modules):
        weights[_precision(weight)] += weight.numel()
    trained = [weight for weight in _unique(modules) if weight.requires_grad]
    learned = sum(weight.numel() for weight in trained)
    sizes = {
        f"weights ({_by_precision(weights)})": _size(modules),
        "gradients": sum(weight.numel() * weight.dtype.itemsize for weight in trained),
        f"states of {config.optimization.optimizer}": learned * STATE_BYTES[config.optimization.optimizer],
    }
    if config.optimization.use_ema:
        sizes["moving average"] = learned * EMA_BYTES
    if config.model.offload and any(moved):
        sizes["weights moved in to encode (--offload)"] = max(map(_size, moved))
    return sizes


def while_encoding(family: Family, config: TrainingConfig) -> int:
    """Estimate the weights' bytes while the caches are filled, before training; 0 without caches. Same arguments."""
    cached = [family.frozen(["vae"])] if config.data.cache_latents else []
    if config.model.pre_compute_text_embeddings:
        cached.append(family.frozen(family.encoders))
    if not cached:
        return 0
    if config.model.offload:
        return _size([*list(family.trained().values())[1:], *family.base.values()]) + max(map(_size, cached))
    return _size([*family.trained().values(), *family.base.values(), *family.frozen(["vae", *family.encoders])])


def _kept(family: Family, config: TrainingConfig) -> tuple[list[nn.Module], list[list[nn.Module]]]:
    """Return the modules that training uses and no cache replaces, the background prior's frozen copies included.

    Returns:
        Those that always stay on the device; frozen ones that only encode, in lists that are used at once.
    """
    photos = [] if config.data.cache_latents else family.frozen(["vae"])
    prompts = [] if config.model.pre_compute_text_embeddings else family.frozen(family.encoders)
    return [*family.trained().values(), *family.base.values()], [photos, prompts]


def _size(modules: Iterable[nn.Module]) -> int:
    return sum(stored_bytes(weight) for weight in _unique(modules))


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
