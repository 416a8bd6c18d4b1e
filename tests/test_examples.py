"""Every example runs; the demo is run by the README's tests, the random models by all tests."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

import segment_album
from toy_photos import save_photos

ROOT = Path(__file__).parents[1]


def test_every_example_is_run_by_a_test():
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for example in (ROOT / "examples").glob("*.py"):
        assert f"import {example.stem}" in tests or f"from {example.stem} import" in tests, example.name


def test_segment_album_cuts_the_subject_out(models, tmp_path, monkeypatch, capsys):
    mask = save_photos(tmp_path / "album", count=2)
    photo = str(tmp_path / "album" / "00.jpg")
    given = [str(models / "sam"), photo, str(mask), str(tmp_path / "album"), str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["segment_album.py", *given])
    segment_album.main()
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["00.jpg", "01.jpg"]
    cut, photo = Image.open(tmp_path / "out" / "01.png"), Image.open(tmp_path / "album" / "01.jpg")
    assert cut.mode == "RGBA" and cut.size == photo.size
    assert set(np.unique(np.asarray(cut)[..., 3])) <= {0, 255}


def test_segment_album_takes_turned_photos_and_every_suffix(models, tmp_path, monkeypatch, capsys):
    mask, album = save_photos(tmp_path / "album", count=1), tmp_path / "album"
    photo, exif = Image.open(album / "00.jpg"), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photo.crop((0, 0, photo.width, photo.height // 2)).save(album / "turned.JPG", exif=exif)
    photo.crop((0, 0, photo.width // 2, photo.height)).save(album / "wide.webp")
    (album / "broken.jpg").write_bytes(b"")
    given = [str(models / "sam"), str(album / "00.jpg"), str(mask), str(album)]
    monkeypatch.setattr(sys, "argv", ["segment_album.py", *given, str(tmp_path / "out")])
    segment_album.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["00.jpg", "left out", "turned.JPG", "wide.webp"]
    sizes = [Image.open(tmp_path / "out" / f"{stem}.png").size for stem in ("turned", "wide")]
    assert sizes == [(photo.height // 2, photo.width), (photo.width // 2, photo.height)]
    monkeypatch.setattr(sys, "argv", ["segment_album.py", *given, str(album)])
    with pytest.raises(SystemExit):
        segment_album.main()
    assert not list(album.glob("*.png"))


def test_toy_photos_show_what_their_masks_say(tmp_path):
    mask = np.asarray(Image.open(save_photos(tmp_path / "photos"))) > 0
    photo = np.asarray(Image.open(tmp_path / "photos" / "00.jpg")).astype(int)
    colours = [np.abs(photo - colour).sum(-1) < 90 for colour in ((226, 54, 130), (64, 200, 190))]
    car = np.any(colours, axis=0)
    assert 0.05 < mask.mean() < 0.5
    assert (car & ~mask).mean() < 0.005 and car[mask].mean() > 0.6
