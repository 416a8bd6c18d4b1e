"""What was opened: folders of photos, where their masks go, finished runs; and no file outside of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from persam_dreambooth.atomic_io import UNFINISHED
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.listing import OUTPUT_NAME, folders_below
from persam_dreambooth.photos.manifest import LOCK_NAME, MANIFEST_NAME
from persam_dreambooth.photos.names import is_text, readable
from persam_dreambooth.preprocessing import SETTINGS_NAME
from persam_dreambooth.preprocessing.rollback import JOURNAL_NAME


@dataclass(frozen=True)
class Workspace:
    """The folders of one server.

    Args:
        images: a folder of photos, or of such folders.
        output: where the masks go; of several folders of photos each has a folder there.
        runs: output folders of training.

    Raises:
        UserError: a folder is not there, holds no photo, or has a name in `images` that is no UTF-8.
    """

    images: Path
    output: Path | None = None
    runs: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.images.is_dir():
            raise UserError(f"{self.images} is not a folder; give the folder that holds the photos")
        if not self.albums():
            raise UserError(
                f"no photo found in {self.images} or in folders in it; put files there that end in "
                f"{', '.join(files.PHOTO_SUFFIXES)}"
            )
        odd = [album for album in self.albums() if not is_text(album)]
        if odd:
            raise UserError(
                f"the folder {readable(odd[0])} in {self.images} has bytes in its name that are no UTF-8, which the "
                "page cannot show; rename it, or give it as --images"
            )
        outputs = [self.output_of(album) for album in self.albums()]
        for output in outputs:
            _check_output(output, outputs)
        for run in self.runs:
            if not run.is_dir():
                raise UserError(f"--run {run} is not a folder; give the --output_dir of a training")

    def albums(self) -> dict[str, Path]:
        """The folders with photos, by their path relative to `images`; `images` itself is "."."""
        found = [folder for folder in folders_below(self.images) if files.list_photos(folder)]
        return {folder.relative_to(self.images).as_posix(): folder for folder in found}

    def unread_lines(self) -> list[str]:
        """What is not read in the folders of photos, a line each; see `files.unread_files`."""
        folders = self.albums()
        known = [*folders.values(), *map(self.output_of, folders)]
        words = [files.unread_words(files.unread_files(folder, known)) for folder in folders.values()]
        return [f"{album}: {said}" for album, said in zip(folders, words, strict=True) if said]

    def output_of(self, album: str) -> Path:
        """Where an album's masks go."""
        if self.output is None:
            return self.images / album / OUTPUT_NAME
        return self.output / album

    def roots(self) -> dict[str, Path]:
        """The folders that may be served from, by the word that stands for them in addresses."""
        masks = {} if self.output is None else {"output": self.output}
        return {"images": self.images} | masks | {f"run{number}": run for number, run in enumerate(self.runs)}

    def address(self, path: Path) -> str:
        """ROOT/PATH of a file, as `resolve` takes it; for the longest root that holds it."""
        name, root = max(
            ((name, root) for name, root in self.roots().items() if path.is_relative_to(root)),
            key=lambda one: len(one[1].parts),
        )
        return f"{name}/{path.relative_to(root).as_posix()}"

    def resolve(self, address: str) -> Path:
        """The file behind an address.

        Raises:
            UserError: nothing is there, or it lies, perhaps by a link, outside of what was opened.
        """
        name, _, rest = address.partition("/")
        root = self.roots().get(name)
        refused = UserError(f"no file at {address!r} in the opened folders")
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
    """Refuse a folder that holds anything but masks of ours, or the folders of other albums' masks."""
    files.check_output_folder(folder)
    if not folder.exists() or any((folder / name).exists() for name in (SETTINGS_NAME, MANIFEST_NAME)):
        return
    ours = (LOCK_NAME, JOURNAL_NAME)  # and what a stop in the first moments of a decision leaves
    inside = [one for one in folder.iterdir() if one.name not in ours and not one.name.startswith(UNFINISHED)]
    if not all(any(output.is_relative_to(one) for output in outputs) for one in inside):
        raise UserError(
            f"{folder} exists and is no folder that `persam-dreambooth segment` or `import` wrote; choose another "
            "--output"
        )
