"""The opened folders: photos, their masks, and finished runs; no file outside them is served."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from persam_dreambooth.atomic_io import UNFINISHED
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.listing import OUTPUT_NAME, folders_below
from persam_dreambooth.photos.manifest import LOCK_NAME, MANIFEST_NAME
from persam_dreambooth.preprocessing import SETTINGS_NAME
from persam_dreambooth.preprocessing.mask_writer import JOURNAL_NAME
from persam_dreambooth.text_files import is_text, readable


@dataclass(frozen=True)
class Workspace:
    """The folders of one server.

    Args:
        images: a folder of photos, or of such folders.
        output: where the masks go; each of several folders of photos has its own subfolder there.
        runs: output folders of training.

    Raises:
        UserError: a folder does not exist, holds no photo, or has a name in `images` that is not UTF-8.
    """

    images: Path
    output: Path | None = None
    runs: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.images.is_dir():
            raise UserError(f"{self.images} is not a folder; give the folder that holds the photos")
        if not self.albums():
            raise UserError(
                f"no photo found in {self.images} or its subfolders; put files there whose names end in "
                f"{', '.join(files.PHOTO_SUFFIXES)}"
            )
        odd = [album for album in self.albums() if not is_text(album)]
        if odd:
            raise UserError(
                f"the folder {readable(odd[0])} in {self.images} has bytes in its name that are not UTF-8, which the "
                "page cannot show; rename it, or give it as --images"
            )
        outputs = [self.output_of(album) for album in self.albums()]
        for output in outputs:
            _check_output(output, outputs)
        for run in self.runs:
            if not run.is_dir():
                raise UserError(f"--run {run} is not a folder; give the --output_dir of a training")

    def albums(self) -> dict[str, Path]:
        """Return the folders with photos by their path relative to `images`, which itself is "."."""
        found = [folder for folder in folders_below(self.images) if files.list_photos(folder)]
        return {folder.relative_to(self.images).as_posix(): folder for folder in found}

    def unread_lines(self) -> list[str]:
        """Report skipped files in the folders of photos, one line per folder; see `files.unread_files`."""
        folders = self.albums()
        known = [*folders.values(), *map(self.output_of, folders)]
        lines = [files.unread_words(files.unread_files(folder, known)) for folder in folders.values()]
        return [f"{album}: {line}" for album, line in zip(folders, lines, strict=True) if line]

    def output_of(self, album: str) -> Path:
        """Return the folder of an album's masks."""
        if self.output is None:
            return self.images / album / OUTPUT_NAME
        return self.output / album

    def roots(self) -> dict[str, Path]:
        """Return the folders that may be served, by their name in addresses."""
        masks = {} if self.output is None else {"output": self.output}
        return {"images": self.images} | masks | {f"run{number}": run for number, run in enumerate(self.runs)}

    def address(self, path: Path) -> str:
        """Return a file's address ROOT/PATH for `resolve`, under the deepest root that holds it."""
        name, root = max(
            ((name, root) for name, root in self.roots().items() if path.is_relative_to(root)),
            key=lambda item: len(item[1].parts),
        )
        return f"{name}/{path.relative_to(root).as_posix()}"

    def resolve(self, address: str) -> Path:
        """Return the file at an address.

        Raises:
            UserError: nothing is there, or it lies outside the opened folders, perhaps through a link.
        """
        name, _, rest = address.partition("/")
        root = self.roots().get(name)
        refused = UserError(f"no file at {address!r} in the opened folders; reload the page")
        if root is None or "\0" in rest:
            raise refused
        try:
            path = (root / rest).resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise refused from error
        if not path.is_file() or not path.is_relative_to(root.resolve()):
            raise refused
        return path


def _check_output(folder: Path, outputs: Sequence[Path]) -> None:
    """Refuse a folder that holds anything but our masks, or the folders of other albums' masks."""
    files.check_output_folder(folder)
    if not folder.exists() or any((folder / name).exists() for name in (SETTINGS_NAME, MANIFEST_NAME)):
        return
    ours = (LOCK_NAME, JOURNAL_NAME)  # left, with unfinished files, by a stop at the start of the first decision
    inside = [path for path in folder.iterdir() if path.name not in ours and not path.name.startswith(UNFINISHED)]
    if not all(any(output.is_relative_to(path) for output in outputs) for path in inside):
        raise UserError(
            f"{folder} exists and was not written by `persam-dreambooth segment` or `import`; choose another --output"
        )
