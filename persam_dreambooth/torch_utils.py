"""Utilities for torch: choose a device, checksums of weights, atomic `.safetensors` files, a cache of tensors."""

import platform
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.errors import UserError


def choose_device(wanted: torch.device | str | None) -> torch.device:
    """Return the requested device; by default the accelerator if there is one, else the CPU.

    Raises:
        UserError: this machine has no such device.
    """
    if wanted is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except Exception as error:  # an unknown name, a missing driver and an index out of range raise different ones
        raise UserError(
            f"the device {wanted} cannot be used here; give cpu, cuda, cuda:1 or mps, or leave it out"
        ) from error
    return device


def emulates_bfloat16(device: torch.device) -> bool:
    """Return whether a device only emulates bfloat16 (x86 without AVX512 does, 18 times slower than float32)."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def weights_checksum(model: nn.Module) -> str:
    """Return a checksum of a model's weights, 8 hexadecimal digits, independent of their names, order and precision.

    The same SAM has the same checksum in another package, which names weights differently and may hold one twice.
    """
    state = model.state_dict().values()
    sums = {zlib.crc32(weight.detach().float().cpu().contiguous().numpy().data) for weight in state}
    return f"{zlib.crc32(repr(sorted(sums)).encode()):08x}"


def save_beside(tensors: Mapping[str, Tensor], path: Path, words: dict[str, str] | None = None) -> None:
    """Write tensors, with `words` as metadata, to a `.safetensors` file that is complete or absent.

    Raises:
        OSError: it cannot be written (instead of safetensors' own exception).
    """
    with replacing(path) as temporary:
        try:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary, words)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written ({error}); check the free space") from error


class TensorCache:
    """Named tensors by key, in one file per key, `<first two digits>/<key>.safetensors`, or in memory.

    Tensors come back bit-identical. A damaged file counts as missing.

    Args:
        folder: where the files go; None keeps the tensors in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._kept = folder, dict[str, dict[str, Tensor]]()

    def get(self, key: str, device: str = "cpu") -> dict[str, Tensor] | None:
        """Return the tensors stored under a key; None if there are none."""
        if self._folder is None:
            return self._kept.get(key)
        try:
            return load_file(self._path(self._folder, key), device)
        except (OSError, SafetensorError):
            return None

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store tensors under a key of hexadecimal digits."""
        if self._folder is None:
            self._kept[key] = {name: tensor.cpu() for name, tensor in tensors.items()}
        else:
            save_beside(tensors, self._path(self._folder, key))

    def _path(self, folder: Path, key: str) -> Path:
        return folder / key[:2] / f"{key}.safetensors"
