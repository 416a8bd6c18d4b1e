"""`segment --recursive`: folder structure is kept, the subject is learned once, other verbs read the output."""

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
    """A copy of the SAM that a test may delete."""
    return Path(shutil.copytree(models / "sam", tmp_path / "sam"))


@pytest.fixture(autouse=True)
def phone(tmp_path, monkeypatch):
    """Photos in a folder and two subfolders, with a hidden folder, one without photos, and videos."""
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


def test_each_folder_gets_its_own_output(sam, capsys):
    assert segment(sam, "--recursive") == 0
    assert masks() == EXPECTED
    for folder in FOLDERS:
        assert all((Path("out") / folder / name).exists() for name in (MANIFEST_NAME, "segmentation.json"))
    printed = capsys.readouterr().out
    assert printed.count("2 masks in out") == 3
    assert "not read: clip.mov (a video" in printed and "--recursive reads" not in printed


def test_missing_recursive_flag_is_suggested(sam, capsys):
    assert segment(sam) == 0
    assert masks() == ["masks/a0.png", "masks/b0.png"]
    assert "--recursive reads the subfolders too" in capsys.readouterr().out


def test_finished_folders_are_skipped_without_loading_model(sam):
    assert segment(sam, "--recursive") == 0
    times = {path: path.stat().st_mtime_ns for path in Path("out").rglob("masks/*.png")}
    Path("out/trip/beach/masks/b2.png").unlink()
    assert segment(sam, "--recursive") == 0
    assert masks() == EXPECTED
    changed = {path for path in times if times[path] != path.stat().st_mtime_ns}
    assert changed == {Path("out/trip/beach/masks/b2.png")}
    (sam / "model.safetensors").unlink()
    assert segment(sam, "--recursive") == 0


def test_subject_is_learned_once(sam, monkeypatch):
    """The model is deleted as soon as the first folder's subject is saved."""
    from persam_dreambooth.preprocessing.mask_store import MaskStore

    workspace = MaskStore.open

    def open_and_delete_model(self, *given):
        workspace(self, *given)
        (sam / "model.safetensors").unlink(missing_ok=True)

    monkeypatch.setattr(MaskStore, "open", open_and_delete_model)
    assert segment(sam, "--recursive") == 0
    assert masks() == EXPECTED


def test_output_among_photos_is_not_album(sam):
    for _ in range(2):
        assert segment(sam, "--recursive", output="phone/masks-of-mine") == 0
        assert masks("phone/masks-of-mine") == EXPECTED


def test_each_subject_has_folder_per_album(sam):
    assert segment(sam, "--recursive", "--subject_name", "rex") == 0
    assert "trip/beach/rex/masks/a2.png" in masks() and "rex/masks/a0.png" in masks()


def test_page_opens_all_albums(sam):
    assert segment(sam, "--recursive") == 0
    workspace = Workspace(Path("phone").absolute(), Path("out").absolute())
    assert list(workspace.albums()) == [".", "10_sks dog", "trip/beach"]
    for name in workspace.albums():
        assert len(newest_entries(workspace.output_of(name) / MANIFEST_NAME)) == 2


def test_training_reads_masks_of_kohya_folders(sam):
    shutil.rmtree("phone/trip")
    for path in Path("phone").glob("*.png"):
        path.rename(Path("phone/10_sks dog") / path.name)
    assert segment(sam, "--recursive", reference="phone/10_sks dog/a0.png") == 0
    config = configure("model", mask={"instance_mask_dir": "out"}, data={"instance_data_dir": "phone"})
    found, _ = photos_of(config, [(32, 32)])
    assert [(instance.photo.name, instance.repeats) for instance in found] == [
        (f"{name}.png", 10) for name in ("a0", "a1", "b0", "b1")
    ]
    assert all(instance.regions[0].mask.parent == Path("out/10_sks dog/masks") for instance in found)


def test_folders_without_photos_are_refused_in_one_line(sam, capsys):
    shutil.rmtree("phone")
    Path("phone/notes").mkdir(parents=True)
    assert segment(sam, "--recursive") == 2
    assert "no photo found in phone" in capsys.readouterr().err and not Path("out").exists()
