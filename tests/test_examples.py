"""Every example runs; the demo is run by the README's tests, the random models by all tests."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

import quickstart
import segment_album
import train_from_python
from tests.forks import Fork
from toy_photos import draw, save_photos

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


def test_the_quickstart_goes_from_photos_to_pictures(tmp_path):
    pictures = quickstart.main(tmp_path / "out", steps=2)
    assert len(pictures) == 8 and all(Image.open(path).size == (64, 64) for path in pictures)
    assert (tmp_path / "out/found/masks/04.png").exists() and (tmp_path / "out/pictures/grid.png").exists()


def test_train_from_python_compares_two_runs(models, tmp_path, capsys):
    save_photos(tmp_path / "dog", count=2)
    (tmp_path / "masks").mkdir()
    for number in range(2):
        draw(number)[1].save(tmp_path / f"masks/{number:02}.png")
    small = {"resolution": 32, "mask_downsample": "max", "num_validation_images": 1, "report_to": "none"}
    small |= {"max_train_steps": 2, "checkpointing_steps": 1}
    base = str(models / "stable-diffusion")
    results = train_from_python.main(base, tmp_path / "dog", tmp_path / "masks", tmp_path / "out", **small)
    rows = list(csv.DictReader((tmp_path / "out/losses.csv").open()))
    assert [(row["run"], row["step"]) for row in rows] == [(run, step) for run in ("plain", "masked") for step in "12"]
    assert float(rows[-1]["loss"]) == results["masked"].losses["loss"] != results["plain"].losses["loss"]
    printed = capsys.readouterr().out
    assert f"can be resumed from {tmp_path / 'out/masked/checkpoint-1'}" in printed
    assert f"1 pictures, such as {tmp_path / 'out/plain/validation/step-000002-0.png'}" in printed


def test_the_notebook_runs_from_top_to_bottom_and_is_stored_without_outputs(tmp_path, monkeypatch):
    cells = json.loads((ROOT / "examples/quickstart.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    source = "\n".join("".join(cell["source"]) for cell in code)
    assert source.count("STEPS = 200\n") == 1
    # A notebook looks for the clone above its own folder; this one runs in a folder of its own, beside a link.
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    run = Fork(exec, source.replace("STEPS = 200\n", "STEPS = 2\n"), {"__name__": "__main__"})
    printed, errors = (text.decode() for text in run.communicate(timeout=600))
    assert run.returncode == 0, errors[-3000:]
    assert "00.png reference None None" in printed and "mean loss" in printed
    assert len(list((tmp_path / "quickstart/pictures").glob("a-sks-dog-*.png"))) == 4


def test_toy_photos_show_what_their_masks_say(tmp_path):
    mask = np.asarray(Image.open(save_photos(tmp_path / "photos"))) > 0
    photo = np.asarray(Image.open(tmp_path / "photos" / "00.jpg")).astype(int)
    colours = [np.abs(photo - colour).sum(-1) < 90 for colour in ((226, 54, 130), (64, 200, 190))]
    car = np.any(colours, axis=0)
    assert 0.05 < mask.mean() < 0.5
    assert (car & ~mask).mean() < 0.005 and car[mask].mean() > 0.6
