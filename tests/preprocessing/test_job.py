"""A segmentation's settings: what makes no sense is refused, and what tells runs apart."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.preprocessing import SegmentationJob
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.segmentation import Agreement, Insid3Method, SegGptMethod, TextPrompt
from tests.scene import save_scenes

BOX = ReferenceFiles("photos/0.png", box=(1, 1, 5, 5))


def job_for(photos="photos", references=(BOX,), **changes):
    return SegmentationJob(Path(photos), references, Path("out"), "sam", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"references": ()}, "needs a reference photo or a text"),
        ({"references": (), "text": TextPrompt("a disc"), "names": ("disc",)}, "a text describes one subject"),
        (
            {"names": ("disc",), "references": (ReferenceFiles("a", text=TextPrompt("a disc")),)},
            "a text describes one",
        ),
        ({"names": ("disc", "dog")}, "2 names were given for 1 references"),
        ({"names": ("a/b",)}, "the name 'a/b' cannot be a folder's name"),
        ({"names": (".dog",)}, "the name '.dog' cannot be a folder's name"),
        ({"min_region": -1}, "min_region -1 must be at least 0"),
        ({"agreement": Agreement("dino"), "presence": "rule.json"}, "cannot be used with a presence rule"),
        ({"agreement": Agreement("dino"), "method": Insid3Method()}, "cannot be used with --method insid3"),
        ({"crop_n_layers": 1, "method": SegGptMethod()}, "crop"),
        ({"all_instances": True}, "finding all instances needs a presence rule"),
    ],
)
def test_jobs_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        job_for(**changes)


def test_rule_beside_the_sam_is_for_the_sam_as_it_is(tmp_path):
    (tmp_path / "presence.json").write_text("{}")
    plain = replace(job_for(), sam=str(tmp_path))
    assert plain.rule == tmp_path / "presence.json" and replace(plain, all_instances=True).all_instances
    changed = {"features": "dino"}, {"sam_size": 1536}, {"crop_n_layers": 1}, {"method": Insid3Method()}
    for changes in (*changed, {"agreement": Agreement("dino")}):
        assert replace(plain, **changes).rule is None
    assert replace(plain, presence="own.json", features="dino").rule == Path("own.json")
    assert job_for().rule is None


def test_photos_are_those_of_the_folder_without_the_drawings(tmp_path):
    folder = save_scenes(tmp_path, 2) / "photos"
    (tmp_path / "mask-0.png").rename(folder / "mask.png")
    (folder / "clip.mov").touch()
    job = replace(job_for(folder, (ReferenceFiles(folder / "0.png", folder / "mask.png"),)), output=folder / "out")
    assert [photo.name for photo in job.photos()] == ["0.png", "1.png"]
    files.write_picture(Image.new("RGB", (4, 4)), folder / "out" / "a.png")
    assert [path.name for path in job.unread()] == ["clip.mov"]


def test_albums_have_outputs_in_the_same_tree(tmp_path):
    """The output is none of them, although it holds pictures."""
    for name in ("a.png", "beach/b.png", "beach/far/c.png", "drawn/mask.png", "out/d.png", ".hidden/e.png"):
        files.write_picture(Image.new("RGB", (4, 4)), tmp_path / name)
    (tmp_path / "empty").mkdir()
    reference = ReferenceFiles(tmp_path / "a.png", tmp_path / "drawn" / "mask.png")
    job = SegmentationJob(tmp_path, (reference,), tmp_path / "out", "sam")
    assert [(album.images, album.output) for album in job.albums()] == [
        (tmp_path / name, tmp_path / "out" / name) for name in ("", "beach", "beach/far")
    ]
    with pytest.raises(UserError, match=r"no photo found in .*empty or in folders in it"):
        replace(job, images=tmp_path / "empty").albums()
    with pytest.raises(UserError, match="nowhere is not a folder"):
        replace(job, images=tmp_path / "nowhere").albums()


def test_each_subject_has_its_own_folder_and_references():
    first, second, third = (ReferenceFiles(f"{number}.png", box=(1, 1, 5, 5)) for number in range(3))
    several = job_for(references=(first, second, third), names=("dog", "cat", "dog"))
    assert several.subjects() == {Path("out/dog"): (first, third), Path("out/cat"): (second,)}
    assert job_for(references=(first, second)).subjects() == {Path("out"): (first, second)}


def test_settings_tell_runs_apart_by_what_changes_masks(tmp_path):
    folder = save_scenes(tmp_path, 1) / "photos"
    job = job_for(folder, (ReferenceFiles(folder / "0.png", box=(1, 1, 5, 5)),))
    settings = json.loads(json.dumps(job.settings()))
    same = {"batch_size": 9, "device": "cpu", "embedding_cache": "cache", "output": "other", "draw": "confidence"}
    assert replace(job, **same).settings() == settings
    for changes in ({"sam": "other"}, {"min_region": 5}, {"text": TextPrompt("a disc")}, {"method": Insid3Method()}):
        assert replace(job, **changes).settings() != settings
    assert "edge_padding" not in settings["method"] and settings["min_region"] is None  # as in runs before them
    Image.new("RGB", (9, 9)).save(folder / "0.png")
    assert job.settings() != settings
