"""The manifest: one line of JSON a photo, what was found in it and where its mask lies."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from persam_dreambooth.errors import UserError
from persam_dreambooth.replacing import replacing

MANIFEST_NAME = "manifest.jsonl"


@dataclass(frozen=True)
class ManifestEntry:
    """What is known of one photo.

    Attributes:
        photo: path of the photo, relative to the manifest's folder, with forward slashes.
        digest: SHA-256 of the photo's bytes.
        width, height: of the upright photo, in pixels; None when it could not be decoded.
        mask, overlay: paths relative to the manifest's folder; None when there is none.
        mask_digest: SHA-256 of the mask file's bytes when this was written.
        source: "persam" for a mask that was found, "reference" for the one the user gave to find the
            others by, "given" for one made elsewhere or changed since.
        score: predicted IoU, about [0, 1]; None for the user's own mask.
        presence: "found", "unsure" or "not found": whether the mask is the subject's; None where nobody decided.
        probability: of that, in [0, 1].
        reason: why it is not "found"; one sentence.
        instances: path of a palette PNG that numbers the subject's instances; None unless all were asked for.
        points: (x, y) in pixels of the upright photo, the positive one first.
        point_labels: 1 for positive, 0 for negative, one a point.
        box: XYXY in pixels of the upright photo; None for an empty mask.
        warnings: one sentence each.
        error: why the photo could not be used; None when it was.
    """

    photo: str
    digest: str
    width: int | None = None
    height: int | None = None
    mask: str | None = None
    mask_digest: str | None = None
    overlay: str | None = None
    source: str = "persam"
    score: float | None = None
    presence: str | None = None
    probability: float | None = None
    reason: str | None = None
    instances: str | None = None
    points: list[list[int]] = field(default_factory=list)
    point_labels: list[int] = field(default_factory=list)
    box: list[int] | None = None
    warnings: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def doubted(self) -> bool:
        """Whether somebody decided, and not that the mask is the subject's."""
        return self.presence not in (None, "found")


def read_manifest(path: Path) -> list[ManifestEntry]:
    """All entries, in the file's order; none when there is no file.

    A last line that was cut off (the writer was killed) is passed over.

    Raises:
        UserError: a line before the last is damaged, or a line has keys that are not a manifest's.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().rstrip(b"\n").split(b"\n")
    known = {one.name for one in fields(ManifestEntry)}
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line.decode("utf-8", "surrogateescape"))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise UserError(f"line {number} of {path} is damaged; delete that line and run again") from error
        is_entry = isinstance(values, dict) and {"photo", "digest"} <= set(values) <= known
        if not is_entry or not all(isinstance(values[key], str) for key in ("photo", "digest")):
            raise UserError(f"line {number} of {path} is no manifest entry; choose another folder or mend it")
        entries.append(ManifestEntry(**values))
    return entries


def append_entry(path: Path, entry: ManifestEntry) -> None:
    """Add one line at the end, so that a killed run loses at most the photo it was at."""
    with path.open("ab") as file:
        file.write(_line(entry))


def write_manifest(path: Path, entries: Iterable[ManifestEntry]) -> None:
    """Replace the whole file at once."""
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join(_line(entry) for entry in entries))


def relative_path(path: Path, folder: Path) -> str:
    """A file's path as a manifest in `folder` has it; a link stays a link, the folders on the way are real."""
    return Path(os.path.relpath(path.parent.resolve() / path.name, folder.resolve())).as_posix()


def _line(entry: ManifestEntry) -> bytes:
    """One line; a file name that is no UTF-8 keeps its bytes."""
    return (json.dumps(asdict(entry), ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape")
