"""kohya's folder layout: photos in subfolders named REPEATS_WORDS, such as `10_sks dog`."""

import re
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"([1-9][0-9]{0,5})_(.*\S.*)")


@dataclass(frozen=True)
class PhotoFolder:
    """A folder of photos that are all repeated equally often.

    Attributes:
        path: the folder.
        repeats: how often an epoch shows each photo.
        words: the prompt in its name; empty if it is not one of kohya's folders.
    """

    path: Path
    repeats: int = 1
    words: str = ""

    @property
    def name(self) -> str:
        """Its name inside the given folder; empty if it is that folder itself."""
        return self.path.name if self.words else ""


def repeated_folders(folder: Path) -> list[PhotoFolder]:
    """List the subfolders with names in kohya's form, sorted by name; none if the folder does not exist."""
    if not folder.is_dir():
        return []
    matches = [(path, _NAME.fullmatch(path.name)) for path in sorted(folder.iterdir()) if path.is_dir()]
    return [PhotoFolder(path, int(found[1]), found[2].strip()) for path, found in matches if found]
