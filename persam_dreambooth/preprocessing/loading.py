"""Photos from disk, a batch at a time, decoded by other processes where there are many."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch.utils.data import DataLoader, Dataset

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files


@dataclass(frozen=True)
class LoadedPhoto:
    """A photo, decoded.

    Attributes:
        path: the file.
        digest: SHA-256 of its bytes.
        image: upright RGB; None where it cannot be decoded.
        error: why not.
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
    """Batches in the paths' order; no more than two a worker wait decoded."""
    yield from DataLoader(_Photos(paths), batch_size, num_workers=workers, collate_fn=list)
