"""Frames on disk: real video files in and out, folders of frames, label images."""

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import ExifTags, Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files, video_io

MATRIX = [1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]
"""The matrix of a track that is not rotated (ISO 14496-12, section 8.3.2)."""


def a_frame(number, size=(64, 48)):
    """A square that moves three pixels a frame over a grey ground, and its labels."""
    levels = np.full((size[1], size[0], 3), 90, np.uint8)
    labels = np.zeros(levels.shape[:2], np.uint8)
    labels[10:30, 3 * number : 3 * number + 16] = 1
    levels[labels > 0] = (200, 180, 40)
    return Image.fromarray(levels), labels


@pytest.fixture
def video(tmp_path):
    """A video of ten frames, 12 a second, without overlay."""
    path = tmp_path / "dog.mp4"
    with video_io.overlay_video(path, (64, 48), Fraction(12)) as add:
        for number in range(10):
            add(a_frame(number)[0], np.zeros((48, 64), np.uint8))
    return path


def test_written_frames_are_read_back(video):
    read = list(video_io.read_frames(video))
    assert (len(read), video_io.count_frames(video), video_io.frame_rate(video)) == (10, 10, 12)
    for number, frame in enumerate(read):
        difference = np.abs(np.asarray(frame).astype(int) - np.asarray(a_frame(number)[0]))
        assert difference.mean() < 8  # compression loss
    assert [path.name for path in video.parent.iterdir()] == ["dog.mp4"]


def test_overlay_covers_subject(tmp_path):
    path = tmp_path / "overlay.mp4"
    with video_io.overlay_video(path, (64, 48), Fraction(12)) as add:
        for number in range(4):
            add(*a_frame(number))
    for number, frame in enumerate(video_io.read_frames(path)):
        plain, labels = a_frame(number)
        change = np.abs(np.asarray(frame).astype(int) - np.asarray(plain)).sum(-1)
        assert change[labels > 0].mean() > 5 * change[labels == 0].mean()


def test_folder_of_frames_is_read_as_video(tmp_path):
    for number in range(3):
        files.write_picture(a_frame(number)[0], tmp_path / f"{number:05}.png")
    read = list(video_io.read_frames(tmp_path))
    assert (video_io.count_frames(tmp_path), video_io.frame_rate(tmp_path)) == (3, 25)
    assert all(np.array_equal(frame, a_frame(number)[0]) for number, frame in enumerate(read))


def test_video_stored_sideways_is_read_upright(video):
    """As phones write it: a matrix in the track's header rotates its frames clockwise by 90 degrees."""
    plain, turned = (struct.pack(">9i", *ones) for ones in (MATRIX, [0, MATRIX[0], 0, -MATRIX[0], 0, 0, *MATRIX[6:]]))
    whole = video.read_bytes()
    header = whole.index(b"tkhd")
    assert whole[header:].count(plain, 0, 100) == 1
    video.write_bytes(whole[:header] + whole[header:].replace(plain, turned, 1))
    first = next(video_io.read_frames(video))
    upright = a_frame(0)[0].transpose(Image.Transpose.ROTATE_270)
    assert first.size == upright.size == (48, 64)
    assert np.abs(np.asarray(first).astype(int) - np.asarray(upright)).mean() < 8


def test_no_more_than_few_frames_are_read_ahead(video):
    reading = video_io.read_frames(video)
    next(reading)
    reading.close()
    video.unlink()  # the file is no longer open


def test_labels_are_written_as_values_of_palette_image(tmp_path):
    labels = np.random.default_rng(0).integers(0, 200, (7, 9), dtype=np.uint8)
    video_io.write_labels(labels, tmp_path / "labels.png")
    read = Image.open(tmp_path / "labels.png")
    assert read.mode == "P"
    np.testing.assert_array_equal(np.asarray(read), labels)
    colours = np.asarray(read.convert("RGB"))
    assert (colours[labels == 0] == 0).all()
    assert (colours[labels == 1] == video_io.PALETTE[0]).all()


def test_odd_size_loses_its_last_pixel_only(tmp_path):
    path = tmp_path / "odd.mp4"
    with video_io.overlay_video(path, (65, 49), Fraction(5)) as add:
        add(*a_frame(0, (65, 49)))
    assert [frame.size for frame in video_io.read_frames(path)] == [(64, 48)]


def test_interrupted_video_leaves_nothing(tmp_path):
    path = tmp_path / "cut.mp4"
    with pytest.raises(RuntimeError), video_io.overlay_video(path, (64, 48), Fraction(5)) as add:
        add(*a_frame(0))
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_file_that_is_not_video_is_refused_in_one_line(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    silent = tmp_path / "silent.mkv"
    with av.open(str(silent), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    for path, complaint in (
        ("absent.mp4", "no video at"),
        ("text.mp4", "not a video that"),
        ("silent.mkv", "no video s"),
    ):
        with pytest.raises(UserError, match=complaint) as refusal:
            list(video_io.read_frames(tmp_path / path))
        assert "\n" not in str(refusal.value)


def test_frames_of_several_sizes_are_refused(tmp_path):
    for number, size in enumerate([(64, 48), (48, 64)]):
        files.write_picture(a_frame(0, size)[0], tmp_path / f"{number}.png")
    with pytest.raises(UserError, match=r"frame 1 of .* 48 x 64 pixels, the first 64 x 48"):
        list(video_io.read_frames(tmp_path))


def test_frames_are_in_order_of_their_numbers(tmp_path):
    names = ["0", "1", "2", "9", "10", "11", "100", "frame 2", "frame 10", "frame b", "²", "x"]
    random = np.random.default_rng(0)
    levels = [random.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in names]
    for name, picture in zip(names, levels, strict=True):
        files.write_picture(Image.fromarray(picture), tmp_path / f"{name}.png")
    read = [np.asarray(frame) for frame in video_io.read_frames(tmp_path)]
    assert all(np.array_equal(*pair) for pair in zip(read[:7], levels[:7], strict=True))
    places = [next(number for number, level in enumerate(levels) if np.array_equal(level, frame)) for frame in read]
    assert sorted(places) == list(range(len(names))) and places.index(7) < places.index(8)


def test_size_of_frame_rotated_by_exif_is_upright_one(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    a_frame(0)[0].save(tmp_path / "0.png")
    a_frame(1, (48, 64))[0].save(tmp_path / "1.jpg", exif=exif)
    assert [frame.size for frame in video_io.read_frames(tmp_path)] == [(64, 48)] * 2


@pytest.mark.parametrize("name", ["empty.mp4", "pipe.mp4", "loop.mp4", "folder.mp4", "photo.jpg", "words.srt"])
def test_other_files_are_not_videos(name, tmp_path):
    path = tmp_path / name
    {"pipe.mp4": os.mkfifo, "loop.mp4": lambda path: path.symlink_to(path.name), "folder.mp4": Path.mkdir}.get(
        name, lambda path: path.write_bytes(b"")
    )(path)
    if name == "photo.jpg":
        a_frame(0)[0].save(path)
    elif name == "words.srt":
        path.write_text("1\n00:00:01,000 --> 00:00:02,000\nwords\n")
    for read in (video_io.count_frames, video_io.frame_rate, lambda path: list(video_io.read_frames(path))):
        if path.is_dir() and read is video_io.frame_rate:
            continue
        with pytest.raises(UserError) as refusal:
            read(path)
        assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile dog.mp4\n", "#EXTM3U\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"])
@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "ffconcat"])
def test_playlist_is_not_followed(text, suffix, video):
    path = video.with_name(f"list.{suffix}")
    path.write_text(text.format(video))
    with pytest.raises(UserError, match=r"not a video that can be read"):
        list(video_io.read_frames(path))


def test_damage_is_always_one_line_error(video):
    """Broken bytes and truncated ends, including metadata that is not text."""
    whole, random = video.read_bytes(), np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 20):
            damaged[place] = random.integers(256)
        video.write_bytes(damaged[: random.integers(len(whole) // 2, len(whole))])
        try:
            video_io.count_frames(video)
            list(video_io.read_frames(video))
        except UserError as error:
            assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("rate", [Fraction(90_000), Fraction(1, 90_000), Fraction(123_457, 100_003)])
def test_absurd_frame_rate_still_gives_video(rate, tmp_path):
    with video_io.overlay_video(tmp_path / "dog.mp4", (64, 48), rate) as add:
        for number in range(3):
            add(*a_frame(number))
    assert len(list(video_io.read_frames(tmp_path / "dog.mp4"))) == 3


def test_truncated_video_is_reported(video):
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(UserError, match=r"dog\.mp4"):
        list(video_io.read_frames(video))
