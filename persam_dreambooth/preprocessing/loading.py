"""Decode photos in batches, optionally in worker processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch.utils.data import DataLoader, Dataset

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files


@dataclass(frozen=True)
class LoadedPhoto:
    """A decoded photo.

    Attributes:
        path: the file.
        digest: SHA-256 of its bytes, in hexadecimal.
        image: the upright photo, 8-bit RGB; None if it cannot be decoded.
        error: why it cannot be decoded, one sentence; None if it can.
    """

    path: Path
    digest: str
    image: Image.Image | None = None
    error: str | None = None


class _Photos(Dataset[LoadedPhoto]):
    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> LoadedPhoto:
        path = self._paths[index]
        digest = files.digest(path)
        try:
            return LoadedPhoto(path, digest, files.read_photo(path))
        except UserError as error:
            return LoadedPhoto(path, digest, error=str(error))


def load_photos(paths: Sequence[Path], batch_size: int, workers: int) -> Iterator[list[LoadedPhoto]]:
    """Yield batches of photos, in the order of the paths; each worker decodes at most two batches ahead.

    Args:
        paths: files of the photos.
        batch_size: photos per batch; the last batch may be smaller.
        workers: number of worker processes; 0 decodes in this process.
    """
    yield from DataLoader(_Photos(paths), batch_size, num_workers=workers, collate_fn=list)
