"""`segment` as a command: what it prints and what it refuses."""

from pathlib import Path

import numpy as np
from PIL import Image

from persam_dreambooth.cli import main


def write_album(folder):
    (folder / "photos").mkdir()
    random = np.random.default_rng(0)
    for name in ("dog.png", "park.jpg"):
        Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / "photos" / name)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 15:40] = 255
    Image.fromarray(mask).save(folder / "mask.png")


def test_segment_writes_masks_and_prints_their_path(models, tmp_path, config, capsys):
    write_album(tmp_path)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"not a picture")
    flags = {
        "images": tmp_path / "photos",
        "reference": tmp_path / "photos" / "dog.png",
        "reference_mask": tmp_path / "mask.png",
        "sam": models / "sam",
        "device": "cpu",
    }
    out = tmp_path / "out"
    file = config("".join(f"{name}: {value}\n" for name, value in flags.items()))
    assert main(["segment", *file, "--output", str(out)]) == 0
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["dog.png", "park.png"]
    *_, found, look = capsys.readouterr().out.splitlines()
    assert found.startswith(f"2 masks in {out / 'masks'}, 1 left out")
    assert look.endswith(str(out / "contact_sheet.png"))
    assert (out / "contact_sheet.png").is_file()


def test_segment_refuses_bad_input_in_one_line(models, tmp_path, error_of):
    write_album(tmp_path)
    photos = tmp_path / "photos"
    flags = ["--images", photos, "--reference", photos / "dog.png", "--output", tmp_path / "out", "--device", "cpu"]
    flags = [str(flag) for flag in flags]
    line = error_of("segment", *flags, "--reference_mask", str(tmp_path / "absent.png"), "--sam", str(models / "sam"))
    assert str(tmp_path / "absent.png") in line
    line = error_of(
        "segment", *flags, "--reference_mask", str(tmp_path / "mask.png"), "--sam", str(tmp_path / "no-sam")
    )
    assert str(tmp_path / "no-sam") in line
    assert not (tmp_path / "out").exists()


def test_output_below_file_is_one_line(error_of, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20)).save("dog.jpg")
    drawn = Image.new("L", (20, 20))
    drawn.paste(255, (3, 3, 9, 9))
    drawn.save("dog.png")
    Path("file").touch()
    given = ["--images", ".", "--reference", "dog.jpg", "--reference_mask", "dog.png", "--sam", str(models / "sam")]
    assert "file is a file" in error_of("segment", *given, "--output", "file/x", "--device", "cpu")
