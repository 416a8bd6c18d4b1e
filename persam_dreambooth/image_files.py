"""Open untrusted image files: known formats and regular files only, and a one-line error for anything that fails."""

import errno
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import pi_heif
from PIL import (  # each registers itself on import; by default Pillow loads only some
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from persam_dreambooth.errors import UserError, is_out_of_memory

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")
"""Decoders that may open a file, by Pillow's names; JPEG's opens MPO too. By default Pillow tries all it has, one of
which runs Ghostscript."""
MAX_PIXELS: Final = 178_956_970
"""Twice Pillow's warning limit: an RGB image of 0.5 GB, larger than any phone takes."""

pi_heif.register_heif_opener()
# Photos of 90 to 179 million pixels are read; Pillow itself refuses larger ones.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def open_picture(path: Path, what: str = "picture", decode: bool = True) -> Iterator[Image.Image]:
    """Open an image file; if it holds several images, the first.

    Args:
        path: of a regular file, or a link to one.
        what: its role, for messages: "photo", "mask".
        decode: decode all pixels now, so that damage is reported here; otherwise read only the header.

    Yields:
        The image as stored: not rotated, in its own mode.

    Raises:
        UserError: the file is missing, not regular, not in a known format, damaged, or too large.
        MemoryError: not enough memory to decode it.
    """
    check_regular(path, what)
    # By file object: given a path, Pillow memory-maps uncompressed TIFFs and then loses their orientation.
    with _file(path, what) as file:
        try:
            image = Image.open(file, formats=FORMATS)
            if decode:
                image.load()
        except Exception as error:  # decoders raise a dozen kinds of exception on damaged files
            if is_out_of_memory(error) or "out of memory" in str(error):
                raise MemoryError(f"not enough memory for the {what} {path}") from error
            raise UserError(
                f"the {what} {path} cannot be decoded ({_reason(error, file)}); export it again or remove it"
            ) from error
        with image:
            yield image


def check_regular(path: Path, what: str) -> None:
    """Refuse anything but a regular file: reading a pipe or a device may block forever.

    Raises:
        UserError: there is no file, or it is not a regular one.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError) as error:
        raise _unopened(path, what, error) from error
    if kind != stat.S_IFREG:
        raise UserError(f"the {what} {path} is {_KINDS.get(kind, 'no file')}, not a file; check the path")


def _file(path: Path, what: str) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # not the file's fault
            raise
        raise _unopened(path, what, error) from error


def _unopened(path: Path, what: str, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError | ValueError):  # ValueError: the path has a NUL in it
        return UserError(f"no {what} at {path}; check the path")
    reason = error.strerror if isinstance(error, OSError) else error
    return UserError(f"the {what} {path} cannot be opened ({reason}); check the path and its permissions")


def _reason(error: Exception, file: BinaryIO) -> str:
    if os.fstat(file.fileno()).st_size == 0:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"it is not an image in a supported format: {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS} pixels"
    return " ".join(str(error).split()) or type(error).__name__
