"""`segment --recursive`: folders keep their structure, the subject is learned once, other verbs read what it left."""

import shutil
from pathlib import Path

import pytest

from persam_dreambooth.cli import main
from persam_dreambooth.photos.manifest import MANIFEST_NAME, newest_entries
from persam_dreambooth.review.workspace import Workspace
from tests.training.small import configure, photos_of
from toy_photos import draw

FOLDERS = ("", "10_sks dog", "trip/beach")
EXPECTED = ["10_sks dog/masks/a1.png", "10_sks dog/masks/b1.png", "masks/a0.png", "masks/b0.png"]
EXPECTED += ["trip/beach/masks/a2.png", "trip/beach/masks/b2.png"]


@pytest.fixture
def sam(models, tmp_path):
    """A SAM of the test's own, which it may take away."""
    return Path(shutil.copytree(models / "sam", tmp_path / "sam"))


@pytest.fixture(autouse=True)
def phone(tmp_path, monkeypatch):
    """Photos in a folder and in two in it, a hidden folder, one without photos, and videos."""
    monkeypatch.chdir(tmp_path)
    for number, folder in enumerate(FOLDERS):
        for name in ("a", "b"):
            path = Path("phone") / folder / f"{name}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(number)[0].resize((48, 40)).save(path)
    draw(0)[1].resize((48, 40)).save("mask.png")
    Path("phone/.thumbnails").mkdir()
    shutil.copy("phone/a0.png", "phone/.thumbnails/a0.png")
    Path("phone/notes").mkdir()
    Path("phone/trip/beach/clip.mov").touch()


def segment(sam, *more, output="out", reference="phone/a0.png"):
    argv = ["segment", "--images", "phone", "--reference", reference, "--reference_mask", "mask.png"]
    return main([*argv, "--sam", str(sam), "--device", "cpu", "--output", output, *more])


def masks(output="out"):
    return sorted(path.relative_to(output).as_posix() for path in Path(output).rglob("masks/*.png"))


def test_each_folder_gets_its_place(sam, capsys):
    assert segment(sam, "--recursive") == 0
    assert masks() == EXPECTED
    for folder in FOLDERS:
        assert all((Path("out") / folder / name).exists() for name in (MANIFEST_NAME, "segmentation.json"))
    said = capsys.readouterr().out
    assert said.count("2 masks in out") == 3
    assert "not read: clip.mov (a video" in said and "--recursive reads" not in said


def test_without_the_flag_it_is_named(sam, capsys):
    assert segment(sam) == 0
    assert masks() == ["masks/a0.png", "masks/b0.png"]
    assert "--recursive reads the subfolders too" in capsys.readouterr().out


def test_what_is_there_is_not_done_again_and_no_model_is_loaded_for_it(sam):
    assert segment(sam, "--recursive") == 0
    times = {path: path.stat().st_mtime_ns for path in Path("out").rglob("masks/*.png")}
    Path("out/trip/beach/masks/b2.png").unlink()
    assert segment(sam, "--recursive") == 0
    assert masks() == EXPECTED
    changed = {path for path in times if times[path] != path.stat().st_mtime_ns}
    assert changed == {Path("out/trip/beach/masks/b2.png")}
    (sam / "model.safetensors").unlink()
    assert segment(sam, "--recursive") == 0


def test_the_subject_is_learned_once(sam, monkeypatch):
    """Its model is taken away as soon as the first folder's subject is saved."""
    from persam_dreambooth.preprocessing.mask_store import MaskStore

    workspace = MaskStore.open

    def open_and_take_away(self, *given):
        workspace(self, *given)
        (sam / "model.safetensors").unlink(missing_ok=True)

    monkeypatch.setattr(MaskStore, "open", open_and_take_away)
    assert segment(sam, "--recursive") == 0
    assert masks() == EXPECTED


def test_an_output_among_the_photos_is_no_album(sam):
    for _ in range(2):
        assert segment(sam, "--recursive", output="phone/masks-of-mine") == 0
        assert masks("phone/masks-of-mine") == EXPECTED


def test_each_subject_has_a_folder_in_each_album(sam):
    assert segment(sam, "--recursive", "--subject_name", "rex") == 0
    assert "trip/beach/rex/masks/a2.png" in masks() and "rex/masks/a0.png" in masks()


def test_the_page_opens_all_of_them(sam):
    assert segment(sam, "--recursive") == 0
    workspace = Workspace(Path("phone").absolute(), Path("out").absolute())
    assert list(workspace.albums()) == [".", "10_sks dog", "trip/beach"]
    for name in workspace.albums():
        assert len(newest_entries(workspace.output_of(name) / MANIFEST_NAME)) == 2


def test_training_reads_the_masks_of_kohyas_folders(sam):
    shutil.rmtree("phone/trip")
    for path in Path("phone").glob("*.png"):
        path.rename(Path("phone/10_sks dog") / path.name)
    assert segment(sam, "--recursive", reference="phone/10_sks dog/a0.png") == 0
    config = configure("model", mask={"instance_mask_dir": "out"}, data={"instance_data_dir": "phone"})
    found, _ = photos_of(config, [(32, 32)])
    assert [(one.photo.name, one.repeats) for one in found] == [
        (f"{name}.png", 10) for name in ("a0", "a1", "b0", "b1")
    ]
    assert all(one.mask and one.mask.parent == Path("out/10_sks dog/masks") for one in found)


def test_folders_without_any_photo_are_one_line(sam, capsys):
    shutil.rmtree("phone")
    Path("phone/notes").mkdir(parents=True)
    assert segment(sam, "--recursive") == 2
    assert "no photo found in phone" in capsys.readouterr().err and not Path("out").exists()
