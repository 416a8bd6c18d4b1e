"""The page's requests: dictionaries in and out, the newest state in every answer, and errors as one line."""

import pytest

from albums import albums, save_album
from persam_dreambooth.photos import files
from persam_dreambooth.review.api import Api
from persam_dreambooth.review.clicks import Clicker
from persam_dreambooth.review.workspace import Workspace
from tests.review.albums import draw_photos, write_found

NAMES = ("a.png", "b.png")
BRUSH = {"kind": "brush", "points": [[3, 3], [9, 3]], "label": 1, "radius": 2}


def no_sam():
    raise RuntimeError("these requests need\nno SAM")


@pytest.fixture
def api(tmp_path):
    """The API of an album whose second photo has a doubtful mask; requests that need a SAM fail."""
    masks = draw_photos(tmp_path, NAMES)
    write_found(tmp_path, tmp_path / "segmented", masks, {"b.png": 0.2})
    return Api(Workspace(tmp_path), Clicker(no_sam), lambda album, references: None)


def photos_of(api, **question):
    return {photo["name"]: photo for photo in api.overview({"album": ".", **question})["photos"]}


def test_overview_has_the_worst_photo_first_and_then_only_changes(api):
    first = api.overview({"album": "."})
    assert [photo["name"] for photo in first["photos"]] == first["order"] == ["b.png", "a.png"]
    shown = first["photos"][0]
    assert (shown["score"], shown["status"], shown["has_mask"], shown["can_undo"]) == (0.2, "found", True, False)
    assert shown["url"] == "picture/images/b.png" and shown["mask_url"] == "picture/images/segmented/masks/b.png"
    assert (first["running"], first["stopped"], first["search_error"], first["looks_like"]) == (False, False, None, "")
    again = api.overview({"album": ".", "since": first["since"]})
    assert again["keeps"] and again["photos"] == [] and "order" not in again
    api.judge({"album": ".", "photo": "a.png", "seen": first["photos"][1]["version"], "verdict": "approved"})
    assert list(photos_of(api, since=first["since"])) == ["a.png"]


def test_decisions_answer_with_the_photo_as_it_is_now(api):
    question = {"album": ".", "photo": "a.png", "seen": photos_of(api)["a.png"]["version"]}
    answer = api.judge(question | {"verdict": "excluded"})["photo"]
    assert (answer["review"], answer["status"], answer["can_undo"]) == ("excluded", "excluded", True)
    assert (answer["width"], answer["height"]) == (64, 48)
    assert answer == api.look(question)["photo"]
    stale = api.judge(question | {"verdict": "approved"})
    assert stale["conflict"] and "a.png was changed in another tab" in stale["error"]
    question["seen"] = answer["version"]
    answer = api.refer(question | {"reference": True})["photo"]
    assert answer["source"] == "reference"
    answer = api.undo(question | {"seen": answer["version"]})["photo"]
    assert (answer["source"], answer["review"]) == (None, "excluded")


def test_brush_corrects_a_mask_and_training_sees_it(api, tmp_path):
    before = photos_of(api)["a.png"]
    question = {"album": ".", "photo": "a.png", "seen": before["version"]}
    corrected = api.draw(question | {"strokes": [BRUSH]})["photo"]
    assert (corrected["source"], corrected["score"], corrected["review"]) == ("corrected", None, None)
    assert "nothing is drawn" in api.draw(question | {"strokes": []})["error"]
    box = {"kind": "box", "points": [[1, 1], [9, 9]], "label": 1}
    assert "a box is for photos without a mask" in api.draw(question | {"strokes": [box]})["error"]
    view = {"resolution": 32}
    assert api.training(question | {"view": view})["picture"].startswith("data:image/png;base64,")
    draw_photos(tmp_path, ["c.png"])
    assert "there is no mask yet" in api.training(question | {"photo": "c.png", "view": view})["error"]


@pytest.mark.parametrize(
    ("ask", "question", "words"),
    [
        ("overview", {"album": "../x"}, "there is no folder '../x' with photos in"),
        ("overview", {}, "does not understand this page; reload it"),
        ("look", {"album": ".", "photo": "c.png"}, "c.png"),
        ("look", {"album": ".", "photo": ["a.png"]}, "does not understand this page; reload it"),
        ("judge", {"album": ".", "photo": "a.png", "seen": "", "verdict": "good"}, "'good' is not a verdict"),
        ("take", {"album": ".", "photo": "a.png", "seen": "", "key": "x"}, "press “Other masks” again"),
        (
            "alternatives",
            {"album": ".", "photo": "a.png"},
            "the server could not do that (these requests need no SAM)",
        ),
    ],
)
def test_every_error_is_one_line(api, ask, question, words):
    answer = getattr(api, ask)(question)
    assert words in answer["error"] and "\n" not in answer["error"] and "conflict" not in answer


def test_full_disk_is_reported_and_leaves_the_mask(api, tmp_path, file_limit):
    question = {"album": ".", "photo": "a.png", "seen": photos_of(api)["a.png"]["version"]}
    mask = (tmp_path / "segmented" / "masks" / "a.png").read_bytes()
    file_limit(50)
    answer = api.draw(question | {"strokes": [BRUSH]})
    file_limit(2**40)
    assert answer["error"].endswith("; check permissions and the free space")
    assert (tmp_path / "segmented" / "masks" / "a.png").read_bytes() == mask


def test_two_clicks_sent_together_are_both_kept(clicker, tmp_path):
    photos, masks = save_album(albums(1, photos=1)[0], tmp_path)
    photo, true = photos / "00.png", files.read_mask(masks / "00.png")
    spilt = true.copy()
    spilt[2:14, 2:14] = spilt[100:112, 2:14] = True
    write_found(photo.parent, photo.parent / "segmented", {photo.name: spilt}, {})
    api = Api(Workspace(photo.parent), clicker, lambda album, references: None)
    (shown,) = api.overview({"album": "."})["photos"]
    clicks = [{"kind": "point", "points": [[8, row]], "label": 0} for row in (8, 106)]
    answer = api.draw({"album": ".", "photo": photo.name, "seen": shown["version"], "strokes": clicks})
    assert answer["photo"]["points"] == [[5, 5], [8, 8], [8, 106]]
    assert answer["photo"]["point_labels"] == [1, 0, 0]
