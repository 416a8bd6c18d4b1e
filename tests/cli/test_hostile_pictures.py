"""Hostile files in place of pictures: every verb reports them in one line, and never hangs, crashes or runs code."""

import json
import os
import signal
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError, printable
from persam_dreambooth.evaluation.generation.plan import photos_with_masks
from persam_dreambooth.photos.files import UNREAD_NAME, write_mask
from persam_dreambooth.photos.manifest import MANIFEST_NAME, read_manifest
from persam_dreambooth.review.server import render
from persam_dreambooth.review.workspace import Workspace
from tests.evaluation.segmentation.datasets import write_perseg
from tests.scene import scene
from tests.training.runs import as_words

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n(it-ran) (w) file closefile\nshowpage\n"


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb():
    """Return a 60 kB PNG that claims 40,000 x 40,000 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(40_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def truncated(suffix):
    def write(path):
        whole = path.with_name(f"whole{suffix}")
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(whole)
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        whole.unlink()

    return write


def containing(content):
    return lambda path: path.write_bytes(content)


BROKEN = {
    "zero-bytes.jpg": containing(b""),
    "text.png": containing(b"not a picture\n" * 50),
    "zeros.webp": containing(bytes(3000)),
    "eps.png": containing(EPS),
    "eps in disguise.jpg": containing(b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, len(EPS)) + bytes(18) + EPS),
    "netpbm.bmp": containing(b"P6 2 2 255\n" + bytes(12)),
    "psd.tif": containing(b"8BPS\0\1" + bytes(200)),
    "bomb.png": containing(bomb()),
    "cut.jpg": truncated(".jpg"),
    "cut.avif": truncated(".avif"),
    "empty.heic": containing(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)),
    "empty.avif": containing(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(100)),
    "colours \x1b[31m.gif": containing(b"GIF89a"),
}
"""Files that are not pictures, or damaged pictures."""
NOT_FILES = {
    "folder.jpg": lambda path: path.mkdir(),
    "pipe.png": os.mkfifo,
    "endless.png": lambda path: path.symlink_to("/dev/zero"),
    "loop.jpg": lambda path: path.symlink_to(path.name),
    "nowhere.jpg": lambda path: path.symlink_to("absent.jpg"),
}
"""Not regular files; reading some of them would block forever."""
HOSTILE = BROKEN | NOT_FILES


@pytest.fixture(autouse=True)
def time_limit():
    """Fail if a verb hangs."""

    def stop(*_):
        raise AssertionError("the verb hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def album(tmp_path, monkeypatch):
    """A working folder with `photos`, their `masks`, `ref.png` and `ref-mask.png`."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.png", "photos/b.png", "ref.png"):
        pixels, disc = scene(40, 48)
        write(Path(name), pixels)
        mask = Path("masks") / Path(name).name if name != "ref.png" else Path("ref-mask.png")
        write_mask(disc, mask)
    return tmp_path


def write(path, pixels):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def assert_refused(argv, capsys):
    """Check for exit code 2 and a printable one-line error, after warnings if any; return the line."""
    code, output = main([str(word) for word in argv]), capsys.readouterr()
    line = output.err.splitlines()[-1]
    assert code == 2 and line.startswith("persam-dreambooth") and ": error: " in line, output.err
    assert output.out == "" and "Traceback" not in output.err and "<_io" not in output.err
    assert printable(line) == line
    return line


def train_argv(models, **flags):
    given = {
        "pretrained_model_name_or_path": models / "stable-diffusion",
        "instance_data_dir": "photos",
        "instance_prompt": "a sks dog",
        "output_dir": "out",
        "resolution": 32,
        "max_train_steps": 1,
        "sam": models / "sam",
    }
    return ["train", *as_words(given | flags)]


def segment_argv(models, **flags):
    given = {"images": "photos", "reference": "ref.png", "output": "out", "sam": models / "sam", "device": "cpu"}
    return ["segment", *as_words(given | flags)]


ROLES = {
    "segment --reference": lambda path, models: segment_argv(models, reference=path, reference_mask="ref-mask.png"),
    "segment --reference_mask": lambda path, models: segment_argv(models, reference_mask=path),
    "segment --reference_scribble": lambda path, models: segment_argv(models, reference_scribble=path),
    "train --reference_image": lambda path, models: train_argv(
        models, reference_image=path, reference_mask="ref-mask.png"
    ),
    "train --reference_mask": lambda path, models: train_argv(models, reference_image="ref.png", reference_mask=path),
    "video --first_mask": lambda path, models: [
        *("video", "--video", "photos", "--first_mask", path, "--output", "out", "--sam", models / "sam"),
        *("--device", "cpu"),
    ],
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_picture_named_by_flag_is_refused_in_one_line(album, models, capsys, name, role):
    HOSTILE[name](Path(name))
    line = assert_refused(ROLES[role](name, models), capsys)
    assert printable(name) in line
    assert not Path("out/masks").exists() and not Path("it-ran").exists()


@pytest.mark.parametrize("role", [role for role in ROLES if "mask" in role])
def test_photo_given_as_mask_is_refused(album, models, capsys, role):
    width = Image.open("ref.png").width
    clouds = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8))
    clouds.resize((width, 40), Image.BICUBIC).save("photo.png")
    assert "is not a mask but a photo" in assert_refused(ROLES[role]("photo.png", models), capsys)


@pytest.mark.parametrize("role", [role for role in ROLES if "reference_mask" in role])
@pytest.mark.parametrize(("marked", "words"), [(0, "is empty"), (1, "marks 1 of"), (40 * 48, "is full")])
def test_useless_mask_is_refused_in_same_words(album, models, capsys, role, marked, words):
    mask = np.zeros((40, 48), bool)
    mask.flat[:marked] = True
    write_mask(mask, Path("odd.png"))
    assert words in assert_refused(ROLES[role]("odd.png", models), capsys)


@pytest.mark.parametrize("argv_of", [segment_argv, train_argv], ids=["segment", "train"])
def test_inverted_reference_mask_is_reported_in_same_words(album, models, caplog, argv_of):
    mask = np.zeros((40, 48), bool)
    mask[:4] = mask[-4:] = mask[:, :6] = mask[:, -6:] = True
    mask[4:12] = True
    write_mask(mask, Path("odd.png"))
    assert mask.mean() > 0.5
    reference = "reference" if argv_of is segment_argv else "reference_image"
    main([str(word) for word in argv_of(models, **{reference: "ref.png", "reference_mask": "odd.png"})])
    assert "ref.png cover the border and less of the middle" in caplog.text


def add_hostile_files(album):
    """Put every hostile file next to the good photos, with a mask for each."""
    (mask,) = {path.read_bytes() for path in (album / "masks").iterdir()}
    for name, make in HOSTILE.items():
        make(album / "photos" / name)
        (album / "masks" / f"{Path(name).stem}.png").write_bytes(mask)


def test_segment_skips_and_names_hostile_photos(album, models, capsys):
    add_hostile_files(album)
    (album / "photos" / "\x1b[2J.mov").touch()
    argv = segment_argv(models, reference="photos/a.png", reference_mask="masks/a.png")
    # The two called "empty" would be reported first, as a clash of names.
    (album / "photos" / "empty.avif").unlink()
    (album / "photos" / "cut.avif").unlink()
    assert main(list(map(str, argv))) == 0
    printed = capsys.readouterr()
    entries = {Path(entry.photo).name: entry for entry in read_manifest(album / "out" / MANIFEST_NAME)}
    good = {name for name, entry in entries.items() if entry.error is None}
    assert good == {"a.png", "b.png"} and set(entries) - good == set(BROKEN) - {"empty.avif", "cut.avif"}
    assert "<_io" not in printed.err and not Path("it-ran").exists()
    unread = json.loads((album / "out" / UNREAD_NAME).read_text())
    assert set(unread) == {*NOT_FILES, "\x1b[2J.mov"} - {"folder.jpg"}  # a folder without photos is not reported
    assert "not read: " in printed.out and all(printable(name) in printed.out for name in unread)
    assert "\x1b" not in printed.out


def test_train_skips_and_names_hostile_photos(album, models, caplog):
    add_hostile_files(album)
    for name in ("empty.avif", "cut.avif"):
        (album / "photos" / name).unlink()
    assert main(train_argv(models, instance_mask_dir="masks")) == 0
    printed = caplog.text
    assert all(
        printable(name) in printed
        for name in (set(BROKEN) | set(NOT_FILES)) - {"empty.avif", "cut.avif", "folder.jpg"}
    )
    assert "masks without a photo: folder.png" in printed
    errors = {
        Path(entry.photo).name
        for entry in read_manifest(album / "out" / MANIFEST_NAME, own_files=False)
        if entry.error
    }
    assert "pipe.png" in errors and "zero-bytes.jpg" in errors and "a.png" not in errors


@pytest.fixture
def replaced(album):
    """Replace a photo or mask by a hostile file; return its path."""

    def put(place, name):
        (album / place / "b.png").unlink()
        path = album / place / f"b{Path(name).suffix}"
        HOSTILE[name](path)
        return path

    return put


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("place", ["photos", "masks"])
def test_export_and_import_refuse_hostile_picture(replaced, capsys, name, place):
    replaced(place, name)
    for argv_of in (["export", "--to"], ["import", "--from"]):
        given = [*argv_of, "kohya", "--images", "photos", "--masks", "masks", "--output", "out"]
        assert "b." in assert_refused(given, capsys)
        assert not Path("out").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_evaluate_generation_refuses_or_names_hostile_photo(replaced, caplog, name):
    path = replaced("photos", name)
    if name in BROKEN:
        with pytest.raises(UserError, match=r"b\.\w+ cannot be decoded"):
            photos_with_masks(Path("photos"), Path("masks"))
        return
    found, _ = photos_with_masks(Path("photos"), Path("masks"))
    assert [pair.image.name for pair in found] == ["a.png"] and "masks without a photo: b.png" in caplog.text
    assert path.name in caplog.text or path.is_dir()


@pytest.mark.parametrize("name", HOSTILE)
def test_evaluate_generation_refuses_hostile_mask(replaced, name):
    replaced("masks", name)
    with pytest.raises(UserError, match=r"cannot be decoded|no mask in masks for b\.png"):
        photos_with_masks(Path("photos"), Path("masks"))


@pytest.mark.parametrize("name", HOSTILE)
def test_page_does_not_show_hostile_picture(replaced, album, name):
    path = replaced("photos", name)
    with pytest.raises(UserError, match=r"cannot be decoded|no file at"):
        render(Workspace(album / "photos", album / "out"), f"images/{path.name}", 64)


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("place", ["Images", "Annotations"])
def test_hostile_picture_in_benchmark_is_refused(tmp_path, models, capsys, name, place):
    write_perseg(tmp_path / "data", objects=("cat",), photos=2)
    path = tmp_path / "data" / place / "cat" / ("01.jpg" if place == "Images" else "01.png")
    path.unlink()
    HOSTILE[name](path)
    argv = ["evaluate", "perseg", "--data", tmp_path / "data", "--output", tmp_path / "out", "--sam", models / "sam"]
    assert path.name in assert_refused([*argv, "--device", "cpu"], capsys)
