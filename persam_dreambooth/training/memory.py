"""Estimate the memory of a training: weights, gradients, optimizer states and EMA, counted, and a step's activations.

Activations are found by running a step with tensors that have no contents (torch's `FakeTensorMode`) and adding up
those that exist at a time.
"""

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data.dataset import Batch
from persam_dreambooth.training.families import Family
from persam_dreambooth.training.families.quantized import stored_bytes
from persam_dreambooth.training.objective import training_loss
from persam_dreambooth.training.runtime.optimizer import STATE_BYTES

EMA_BYTES = 4


def lines(family: Family, config: TrainingConfig, batch: Batch) -> list[str]:
    """Return the estimate as lines for the screen: the sum, then each of its terms.

    Args:
        family: after `Family.place` on the CPU, so that each weight has its training precision.
        config: the run's.
        batch: of a step, with pixels and tokens.
    """
    sizes, left_out = terms(family, config), ""
    try:
        sizes["activations of a step"] = max(0, step_peak(family, config, batch) - sizes["gradients"])
    except UserError:
        raise
    except Exception as error:  # layers of other packages fail in many ways without contents
        reason = first_line(error)
        left_out = f", without activations, which could not be estimated ({reason})"
    total, before = sum(sizes.values()), while_encoding(family, config)
    advice = "" if config.model.offload else "; less with --offload"
    more = [f"  before, while prompts and photos are encoded: {in_words(before)}{advice}"] if before > total else []
    return [
        f"memory, estimated: {in_words(total)} in each process{left_out}",
        *(f"  {name}: {in_words(size)}" for name, size in sizes.items()),
        *more,
    ]


def terms(family: Family, config: TrainingConfig) -> dict[str, int]:
    """Estimate the memory in bytes without activations, by what it is for.

    The parts that `--cache_latents` and `--pre_compute_text_embeddings` remove are left out; of those
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


def step_peak(family: Family, config: TrainingConfig, batch: Batch) -> int:
    """Return the most bytes that a step's forward and backward pass take at a time, gradients included.

    The step is run with tensors without contents, so that it takes little time and memory even for large models.
    Tokens of padding count as tokens, since there are no contents to tell them apart. What kernels allocate
    for themselves, and what allocators keep, is not counted.

    Args:
        family: on the CPU; may keep tensors without contents afterwards, and is not to be used again.
        config: the run's.
        batch: of a step, with pixels and tokens.

    Raises:
        Exception: an operation cannot run without contents; torch raises a RuntimeError.
    """
    batch = send_to_device(batch, "cpu")
    trained = list(family.trained().values())
    autocast = torch.autocast("cpu", family.dtype, enabled=family.dtype != torch.float32)
    for part in trained:
        part.train()
    live = _LiveBytes()
    with FakeTensorMode(allow_non_fake_inputs=True), live, autocast:
        cached = _encoded(family, config, batch)
        live.begin()
        loss, _ = training_loss(family, cached, config)
        loss.backward()
    for weight in _unique(trained):
        weight.grad = None
    return live.peak


def _encoded(family: Family, config: TrainingConfig, batch: Batch) -> Batch:
    """Return a batch as it comes out of the caches that are on."""
    with torch.no_grad():
        if config.data.cache_latents and batch.pixels is not None:
            batch = batch._replace(moments=family.encode_pixels(batch.pixels), pixels=None)
        if config.model.pre_compute_text_embeddings:
            batch = batch._replace(prompt=family.encode_prompt(batch.prompt))
            if batch.class_prompt is not None:
                batch = batch._replace(class_prompt=family.encode_prompt(batch.class_prompt))
    return batch


class _LiveBytes(TorchDispatchMode):
    """While active, adds up the storages that operations allocate and that still exist; `peak` is the most so far."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = dict[int, int]()
        self.now = self.peak = 0

    def begin(self) -> None:
        """Count from here on; what exists already is not counted."""
        self.sizes, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return True  # whether a mask is 1 everywhere
        if func is torch.ops.aten.index.Tensor and args[1][0] is not None and args[1][0].dtype == torch.bool:
            return args[0].flatten(0, args[1][0].ndim - 1)  # the tokens that a mask keeps
        result = func(*args, **(kwargs or {}))
        if all(value.alias_info is None for value in func._schema.returns):  # else a view, or written in place
            for storage in _storages(result):
                self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self.sizes:
            return
        self.sizes[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, self.sizes, storage._cdata)

    def _drop(self, sizes: dict[int, int], key: int) -> None:
        if sizes is self.sizes:
            self.now -= sizes.pop(key)


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    """Return the storages of all tensors in nested arguments or results; those of a quantized one are none."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return [tensor.untyped_storage() for tensor in tensors if not is_traceable_wrapper_subclass(tensor)]


def while_encoding(family: Family, config: TrainingConfig) -> int:
    """Estimate the weights' bytes while the caches are filled, before training; 0 without caches."""
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
        The modules that always stay on the device; and frozen ones that only encode, one list for those that are
        on the device together.
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
