"""Folders that may be opened: the page's own and imported ones at every start, and no unrelated ones."""

import json
import os
import re
import time

import numpy as np
import pytest
from PIL import Image

from models import SAM
from persam_dreambooth.errors import UserError
from persam_dreambooth.formats import CONVENTIONS, import_folder
from persam_dreambooth.formats.layouts import Given
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, locked, newest_entries
from persam_dreambooth.preprocessing import SegmentationJob
from persam_dreambooth.review.api import Api
from persam_dreambooth.review.clicks import Clicker
from persam_dreambooth.review.workspace import Workspace
from persam_dreambooth.segmentation import PerSAM
from tests.review.albums import draw_photos

NAMES = ("a.png", "b.png", "c.png")
BRUSH = {"kind": "brush", "points": [[3, 3], [9, 3]], "label": 1, "radius": 2}


def api_of(workspace):
    """Return the API without a server."""

    def job(album, references):
        return SegmentationJob(album.images, references, album.output, str(SAM), device="cpu", batch_size=1)

    return Api(workspace, Clicker(lambda: PerSAM.from_pretrained(str(SAM), device="cpu")), job)


def checked(answer):
    """Return an answer, after checking that it is not an error."""
    assert "error" not in answer, answer["error"]
    return answer


def draw_first(workspace, album):
    """Scribble on an album's first photo."""
    api = api_of(workspace)
    photo = checked(api.overview({"album": album}))["photos"][0]
    question = {"album": album, "photo": photo["name"], "seen": photo["version"], "strokes": [BRUSH]}
    return checked(api.draw(question))


def searched(api):
    """Run the search; return the album afterwards."""
    checked(api.search({"album": "."}))
    while checked(now := api.overview({"album": "."}))["running"]:
        time.sleep(0.05)
    return now


@pytest.mark.parametrize("deep", ["sub", "far/down"])
def test_several_albums_can_be_reopened_after_decision_in_one(deep, tmp_path):
    for folder in (tmp_path / "photos", tmp_path / "photos" / deep):
        draw_photos(folder, NAMES)
    draw_first(Workspace(tmp_path / "photos", tmp_path / "out"), deep)
    again = Workspace(tmp_path / "photos", tmp_path / "out")
    assert draw_first(again, ".")["photo"]["status"] == "reference"
    (tmp_path / "out" / deep / "segmentation.json").unlink()
    (tmp_path / "out" / deep / MANIFEST_NAME).unlink()
    with pytest.raises(UserError, match="was not written by"):
        Workspace(tmp_path / "photos", tmp_path / "out")


def test_folder_with_only_lock_counts_as_empty(tmp_path):
    draw_photos(tmp_path / "photos", NAMES)
    output = tmp_path / "photos" / "segmented"
    with locked(output / MANIFEST_NAME):
        pass
    Workspace(tmp_path / "photos")
    assert not files.refuse_other_runs(output, "segmentation.json", {}, "segmentation run")
    (output / "notes.txt").write_text("somebody else's")
    with pytest.raises(UserError, match="was not written by"):
        Workspace(tmp_path / "photos")
    with pytest.raises(UserError, match="is not from an earlier segmentation run"):
        files.refuse_other_runs(output, "segmentation.json", {}, "segmentation run")


@pytest.fixture
def imported(tmp_path):
    """The output of `persam-dreambooth import` for three photos, and their masks by name."""
    masks = draw_photos(tmp_path / "theirs" / "images", NAMES)
    for name, mask in masks.items():
        files.write_mask(mask, tmp_path / "theirs" / "masks" / name)
    import_folder(CONVENTIONS["kohya"], Given(tmp_path / "theirs"), tmp_path / "ours")
    return tmp_path / "ours", masks


def test_imported_masks_are_shown_corrected_and_approved(imported):
    folder, masks = imported
    workspace = Workspace(folder / "images", folder)
    api = api_of(workspace)
    photos = {photo["name"]: photo for photo in checked(api.overview({"album": "."}))["photos"]}
    assert [photos[name]["status"] for name in NAMES] == ["given"] * 3
    for photo in photos.values():
        shown = files.read_mask(workspace.resolve(photo["mask_url"].removeprefix("picture/")))
        np.testing.assert_array_equal(shown, masks[photo["name"]])
        assert workspace.resolve(photo["overlay_url"].removeprefix("picture/")).name == photo["name"]
    checked(api.judge({"album": ".", "photo": "a.png", "seen": photos["a.png"]["version"], "verdict": "approved"}))
    checked(api.draw({"album": ".", "photo": "b.png", "seen": photos["b.png"]["version"], "strokes": [BRUSH]}))
    again = checked(api_of(Workspace(folder / "images", folder)).overview({"album": "."}))["photos"]
    assert {photo["name"]: photo["status"] for photo in again} == {
        "a.png": "approved",
        "b.png": "corrected",
        "c.png": "given",
    }
    corrected = files.read_mask(folder / "masks" / "b.png")
    assert corrected[3, 3:10].all() and (corrected >= masks["b.png"]).all()


def test_search_keeps_imported_masks_and_draws_their_overlays(imported, tmp_path):
    folder, _ = imported
    draw_photos(tmp_path / "more", [*NAMES, "new.png"])
    (tmp_path / "more" / "new.png").rename(folder / "images" / "new.png")
    api = api_of(Workspace(folder / "images", folder))
    photos = {photo["name"]: photo for photo in checked(api.overview({"album": "."}))["photos"]}
    checked(api.refer({"album": ".", "photo": "a.png", "seen": photos["a.png"]["version"], "reference": True}))
    checked(api.judge({"album": ".", "photo": "b.png", "seen": photos["b.png"]["version"], "verdict": "approved"}))
    before = {name: (folder / "masks" / name).read_bytes() for name in NAMES}
    assert searched(api)["search_error"] is None
    assert {name: (folder / "masks" / name).read_bytes() for name in before} == before
    entries = {entry.photo: entry for entry in newest_entries(folder / MANIFEST_NAME)}
    sources = [entries[f"images/{name}"].source for name in (*NAMES, "new.png")]
    assert sources == ["reference", "given", "given", "persam"]
    for entry in entries.values():
        with Image.open(folder / entry.overlay) as overlay:
            assert overlay.size == (entry.width, entry.height)


def test_name_that_is_not_utf8_is_hidden_reported_and_still_searched(tmp_path):
    odd = os.fsdecode(b"odd \xff.png")
    draw_photos(tmp_path / "photos", [*NAMES, odd])
    workspace = Workspace(tmp_path / "photos")
    api = api_of(workspace)
    shown = checked(api.overview({"album": "."}))
    assert [photo["name"] for photo in shown["photos"]] == list(NAMES)
    assert shown["not_shown"] == ["odd ?.png"]
    draw_first(workspace, ".")
    assert searched(api)["search_error"] is None
    assert (tmp_path / "photos" / "segmented" / "masks" / odd).is_file()
    draw_photos(tmp_path / "photos", [odd.replace("png", "jpg")])
    clash = api.overview({"album": "."})
    assert "odd ?.jpg and odd ?.png" in clash["error"]
    json.dumps([shown, clash], ensure_ascii=False).encode()  # as sent


def test_folder_name_that_is_not_utf8_is_refused_at_start(tmp_path):
    draw_photos(tmp_path / "photos" / os.fsdecode(b"\xff"), NAMES)
    with pytest.raises(UserError, match=r"the folder \? in .*rename it"):
        Workspace(tmp_path / "photos")
    assert list(Workspace(tmp_path / "photos" / os.fsdecode(b"\xff")).albums()) == ["."]


@pytest.mark.parametrize(
    ("line", "words"),
    [(b'{"photo": "a.png"}', "line 1 of .* is not a manifest entry"), (b'{"photo": ', "line 1 of .* is damaged")],
)
def test_damaged_manifest_line_is_named_in_every_answer(line, words, imported):
    folder, _ = imported
    api = api_of(Workspace(folder / "images", folder))
    photo = checked(api.overview({"album": "."}))["photos"][0]
    path = folder / MANIFEST_NAME
    path.write_bytes(line + b"\n" + path.read_bytes().partition(b"\n")[2])
    before = path.read_bytes()
    about = {"album": ".", "photo": "a.png", "seen": photo["version"]}
    answers = [
        api.overview(about),
        api.look(about),
        api.judge(about | {"verdict": "approved"}),
        api.refer(about | {"reference": True}),
        api.draw(about | {"strokes": [BRUSH]}),
        api.undo(about),
    ]
    assert [answer for answer in answers if not re.search(words, answer["error"])] == []
    assert path.read_bytes() == before
