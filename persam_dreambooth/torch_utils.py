"""Tensors and files: the checksum of a model's weights, a file that is whole or absent, and a cache of both."""

import zlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from persam_dreambooth.atomic_io import replacing


def weights_checksum(model: nn.Module) -> str:
    """Eight hexadecimal digits of a model's weights, whatever their names, their order and their precision.

    The same SAM through another package, which names its weights otherwise and may hold one twice, has the same ones.
    """
    state = model.state_dict().values()
    sums = {zlib.crc32(weight.detach().float().cpu().contiguous().numpy().data) for weight in state}
    return f"{zlib.crc32(repr(sorted(sums)).encode()):08x}"


def save_beside(tensors: Mapping[str, Tensor], path: Path, words: dict[str, str] | None = None) -> None:
    """Write tensors, and words as metadata, to a `.safetensors` file that is there whole or not at all.

    Raises:
        OSError: it cannot be written, for which safetensors has an exception of its own.
    """
    with replacing(path) as temporary:
        try:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary, words)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written ({error}); check the free space") from error


class TensorCache:
    """Named tensors by key; a file each, `<first two digits>/<key>.safetensors`, or in memory.

    What comes out is what went in, bit for bit. A damaged file counts as none.

    Args:
        folder: of the files; None keeps them in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._kept = folder, dict[str, dict[str, Tensor]]()

    def get(self, key: str, device: str = "cpu") -> dict[str, Tensor] | None:
        """What was put there; None where nothing is."""
        if self._folder is None:
            return self._kept.get(key)
        try:
            return load_file(self._path(self._folder, key), device)
        except (OSError, SafetensorError):
            return None

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Keep tensors under a key, of hexadecimal digits."""
        if self._folder is None:
            self._kept[key] = {name: tensor.cpu() for name, tensor in tensors.items()}
        else:
            save_beside(tensors, self._path(self._folder, key))

    def _path(self, folder: Path, key: str) -> Path:
        return folder / key[:2] / f"{key}.safetensors"
