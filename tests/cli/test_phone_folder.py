"""A folder copied from a phone: every verb reads what it can and names the rest."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image

from persam_dreambooth.cli import main
from persam_dreambooth.photos.files import UNREAD_NAME, read_mask, read_photo, write_mask
from persam_dreambooth.photos.manifest import MANIFEST_NAME, read_manifest
from persam_dreambooth.review.workspace import Workspace
from tests.scene import scene
from tests.training.runs import as_words

READ = ("a.HEIC", "b.avif", "c.gif", "d.mpo", "e.jfif", "f.jpg")
UNREAD = ("clip.mov", "raw.DNG", "trip")


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """A folder `phone` of rotated photos in all formats, with a subfolder, a video, a raw file and text files."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "phone"
    (folder / "trip").mkdir(parents=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    rotated = exif.tobytes()  # serialized once: saving AVIF removes the orientation from the object
    for number, name in enumerate(READ):
        pixels, disc = scene(40, 48, number)
        content = io.BytesIO()
        if name.endswith(".HEIC"):
            photo = pillow_heif.from_pillow(Image.fromarray(pixels))
            photo.info["exif"] = rotated
            photo.save(content, format="HEIF")
        else:
            kind = {"avif": "AVIF", "gif": "GIF", "mpo": "MPO"}.get(name.split(".")[1], "JPEG")
            Image.fromarray(pixels).save(content, kind, **({} if kind == "GIF" else {"exif": rotated}))
        (folder / name).write_bytes(content.getvalue())
        mask = disc if name.endswith("gif") else np.rot90(disc, -1)
        write_mask(mask, tmp_path / "masks" / f"{name[0]}.png")
    (folder / "trip" / "g.jpg").write_bytes((folder / "f.jpg").read_bytes())
    for name in ("clip.mov", "raw.DNG", "f.txt", "f.AAE", ".DS_Store"):
        (folder / name).write_bytes(b"a sks dog")
    return folder


def test_segment_reads_all_formats_and_reports_rest(phone, models, capsys):
    given = {"images": phone, "reference": phone / "a.HEIC", "reference_mask": "masks/a.png", "output": "out"}
    assert main(["segment", *as_words(given | {"sam": models / "sam", "device": "cpu"})]) == 0
    printed = capsys.readouterr().out
    entries = read_manifest(Path("out") / MANIFEST_NAME, own_files=False)
    assert [Path(entry.photo).name for entry in entries] == list(READ)
    assert all(entry.error is None and entry.mask for entry in entries)
    for name in READ:
        assert read_mask(Path("out/masks") / f"{name[0]}.png").shape == read_photo(phone / name).size[::-1]
    (line,) = [line for line in printed.splitlines() if line.startswith("not read: ")]
    assert all(name in line for name in UNREAD) and "f.txt" not in line and "AAE" not in line
    assert set(json.loads((Path("out") / UNREAD_NAME).read_text())) == set(UNREAD)
    for name in ("clip.mov", "raw.DNG"):
        (phone / name).unlink()
    (phone / "trip" / "g.jpg").unlink()
    assert main(["segment", *as_words(given | {"sam": models / "sam", "device": "cpu"})]) == 0
    assert "not read" not in capsys.readouterr().out and not (Path("out") / UNREAD_NAME).exists()


def test_train_reads_all_formats_and_reports_rest(phone, models, caplog):
    given = {
        "pretrained_model_name_or_path": models / "stable-diffusion",
        "instance_data_dir": phone,
        "instance_mask_dir": "masks",
        "instance_prompt": "a sks dog",
        "output_dir": "out",
        "resolution": 32,
        "max_train_steps": 1,
        "class_data_dir": "class",
        "class_prompt": "a dog",
        "num_class_images": 1,
    }
    Path("class").mkdir()
    shutil.copy(phone / "f.jpg", "class/0.jpg")
    Path("class/class.mp4").touch()
    assert main(["train", *as_words(given), "--with_prior_preservation"]) == 0
    assert "--class_data_dir class: not read: class.mp4 (a video" in caplog.text
    assert "not read: " in caplog.text and all(name in caplog.text for name in UNREAD)
    entries = read_manifest(Path("out") / MANIFEST_NAME, own_files=False)
    assert {Path(entry.photo).name for entry in entries if entry.error} == set(UNREAD)
    assert {Path(entry.photo).name for entry in entries if not entry.error} == set(READ)


def test_export_reads_all_formats_and_reports_rest(phone, capsys):
    given = {"to": "kohya", "images": phone, "masks": "masks", "output": "out"}
    assert main(["export", *as_words(given)]) == 0
    printed = capsys.readouterr().out
    assert f"{len(READ)} photos" in printed and all(name in printed for name in UNREAD)
    exported = sorted(path.name for path in Path("out").rglob("*") if path.stem in "abcdef" and path.suffix != ".txt")
    assert len(exported) == 2 * len(READ) and not any("HEIC" in name for name in exported)


def test_page_reads_all_formats_and_reports_rest(phone):
    (phone / "trip" / "g.jpg").unlink()
    workspace = Workspace(phone)
    (line,) = workspace.unread_lines()
    assert "clip.mov" in line and "raw.DNG" in line
    assert Path(workspace.resolve("images/a.HEIC")).is_file()
