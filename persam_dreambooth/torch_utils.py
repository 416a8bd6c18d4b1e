"""Tensors and files: checksums of model weights, atomic `.safetensors` files, and a cache of tensors."""

import zlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from persam_dreambooth.atomic_io import replacing


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

    Tensors come back bit for bit. A damaged file counts as missing.

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
