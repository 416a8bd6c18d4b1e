"""Videos on disk: read frames one at a time from a video file or a folder, and write overlay videos."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.errors import UserError, is_out_of_memory
from persam_dreambooth.image_files import open_picture
from persam_dreambooth.images import orientation
from persam_dreambooth.photos import files
from persam_dreambooth.photos.pairs import SIDEWAYS

PALETTE = ((230, 60, 80), (60, 140, 240), (70, 190, 90), (240, 180, 40), (160, 90, 220), (40, 190, 190))
"""Colours of the subjects, in the order of their labels; reused from the start when they run out."""
DEFAULT_RATE = Fraction(25)
SLOWEST, FASTEST = Fraction(1, 60), Fraction(240)
"""Limits of an overlay's frame rate, in frames per second; a damaged file may claim any rate."""
CONTAINERS = (
    *("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "av1", "ivf"),
    *("flv", "asf", "ogg", "mxf", "dv", "rm", "nut", "yuv4mpegpipe", "gif", "apng"),
)
"""FFmpeg's names of the formats that may be opened. By default it also opens playlists, which name other files."""
CODECS = ("libx264", "mpeg4")
"""The first codec that the video library was built with is used; browsers play only the first of these."""


class FrameSink(Protocol):
    """Type of the function that `overlay_video` yields."""

    def __call__(self, frame: Image.Image, labels: NDArray[np.uint8]) -> None:
        """Add one frame with its (H, W) labels."""
        ...


def count_frames(source: Path) -> int | None:
    """Return the number of frames that the file claims; None if it does not say.

    Raises:
        UserError: see `read_frames`.
    """
    if source.is_dir():
        return len(files.find_photos(source))
    with _open_video(source) as container:
        return container.streams.video[0].frames or None


def frame_rate(source: Path) -> Fraction:
    """Return the frame rate in frames per second; 25 for a folder."""
    if source.is_dir():
        return DEFAULT_RATE
    with _open_video(source) as container:
        return Fraction(container.streams.video[0].average_rate or DEFAULT_RATE)


def read_frames(source: Path) -> Iterator[Image.Image]:
    """Yield upright RGB frames in order, holding only one at a time.

    Args:
        source: a video file, or a folder of frames in the order of their names, 2.png before 10.png.

    Raises:
        UserError: it is neither, it cannot be decoded, or a frame differs in size from the first.
    """
    sizes = _Sizes(source)
    if source.is_dir():  # check all sizes before the first frame is processed
        for photo in _pictures(source):
            sizes.check(_stored_size(photo))
        sizes = _Sizes(source)
    for frame in _frames(source):
        sizes.check(frame.size)
        yield frame


class _Sizes:
    """Refuse a frame whose size, (width, height), differs from the first."""

    def __init__(self, source: Path) -> None:
        self._source, self._first, self._count = source, (0, 0), 0

    def check(self, size: tuple[int, int]) -> None:
        """Check the size of the next frame."""
        self._first = self._first if self._count else size
        if size != self._first:
            raise UserError(
                f"frame {self._count} of {self._source} has {size[0]} x {size[1]} pixels, the first "
                f"{self._first[0]} x {self._first[1]}; all frames must have one size, so remove or resize it"
            )
        self._count += 1


def _pictures(folder: Path) -> list[Path]:
    def place(path: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.stem)]

    return sorted(files.find_photos(folder), key=place)


def _stored_size(photo: Path) -> tuple[int, int]:
    """Return (width, height) of the upright photo, reading only its header."""
    with open_picture(photo, "frame", decode=False) as image:
        return image.size[::-1] if orientation(image) in SIDEWAYS else image.size


def _frames(source: Path) -> Iterator[Image.Image]:
    if source.is_dir():
        yield from map(files.read_photo, _pictures(source))
        return
    with _open_video(source) as container:
        decoded = container.decode(video=0)
        while True:
            try:
                frame = next(decoded, None)
            except Exception as error:
                raise _unreadable(f"the video {source} is damaged", error, "its frames cannot all be read") from error
            if frame is None:
                return
            turned = frame.to_image()
            yield turned.rotate(frame.rotation, expand=True) if frame.rotation else turned


@contextmanager
def _open_video(source: Path) -> Iterator[Any]:
    if not source.is_file():
        raise UserError(f"no video at {source}; give a video file or a folder of frames")
    av = _av()
    try:
        container = av.open(str(source), options={"format_whitelist": ",".join(CONTAINERS)})
    except Exception as error:
        problem, advice = f"{source} is not a video that can be read", "convert it to MP4, or give its frames"
        raise _unreadable(problem, error, advice) from error
    with container:
        if not container.streams.video:
            raise UserError(f"{source} holds no video stream; give a video file or a folder of frames")
        yield container


def _unreadable(problem: str, error: Exception, advice: str) -> Exception:
    """Turn an exception about a damaged file, of which there are a dozen kinds, into a UserError."""
    if is_out_of_memory(error):
        return error
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if reason == "Invalid argument":  # FFmpeg's error for a format that is not in the list
        reason = "its format is not supported"
    return UserError(f"{problem} ({reason}); {advice}")


def _av() -> Any:
    """Import PyAV, which only video needs."""
    try:
        import av
    except ImportError as error:
        raise UserError("videos need PyAV; install it with `pip install av`") from error
    return av


def colour_overlay(frame: Image.Image, labels: NDArray[np.uint8]) -> Image.Image:
    """Blend each subject in a frame with its colour, half and half."""
    levels = np.array(frame)
    for label in np.unique(labels[labels > 0]):
        inside = labels == label
        colour = np.array(PALETTE[(label - 1) % len(PALETTE)])
        levels[inside] = (levels[inside] * 0.5 + colour * 0.5).astype(np.uint8)
    return Image.fromarray(levels)


def label_picture(labels: NDArray[np.uint8]) -> Image.Image:
    """Make a palette image of (H, W) labels, as in DAVIS: values are labels, colours are for viewing."""
    picture = Image.fromarray(labels, mode="P")
    colours: Sequence[int] = [level for number in range(255) for level in PALETTE[number % len(PALETTE)]]
    picture.putpalette([0, 0, 0, *colours])
    return picture


def write_labels(labels: NDArray[np.uint8], path: Path) -> None:
    """Save (H, W) labels as a palette PNG; see `label_picture`."""
    picture = label_picture(labels)
    with files.replacing(path) as temporary:
        picture.save(temporary, format="PNG")


@contextmanager
def overlay_video(path: Path, size: tuple[int, int], rate: Fraction) -> Iterator[FrameSink]:
    """Write a video of overlays; the file appears, complete, when the block succeeds.

    Args:
        path: of the video; its suffix selects the container.
        size: (width, height) in pixels; an odd edge loses its last pixel, since codecs need even ones.
        rate: frames per second.
    """
    av = _av()
    width, height = (max(2, edge - edge % 2) for edge in size)
    codec = next(name for name in CODECS if name in av.codecs_available)
    with files.replacing(path) as temporary, av.open(str(temporary), "w", format=path.suffix[1:]) as container:
        stream = container.add_stream(codec, rate=min(max(rate, SLOWEST), FASTEST).limit_denominator(60_000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"

        def add(frame: Image.Image, labels: NDArray[np.uint8]) -> None:
            picture = colour_overlay(frame, labels).crop((0, 0, width, height))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))

        yield add
        container.mux(stream.encode())
