"""Other masks for a photo: the most similar to the subject first, taken once, and undone."""

import shutil

from finders import tiny_dino
from persam_dreambooth.photos import files
from persam_dreambooth.review.alternatives import Alternatives
from persam_dreambooth.review.api import Api
from persam_dreambooth.review.workspace import Workspace
from persam_dreambooth.segmentation.proposals import PointGrid
from tests.review.albums import beside_a_look_alike, contents
from tests.scene import iou


def test_another_mask_is_chosen_undone_and_only_for_its_photo(tmp_path, clicker):
    true, output = beside_a_look_alike(tmp_path), tmp_path / "segmented"
    before = contents(output)
    other = Alternatives(clicker, lambda sam: PointGrid(sam, 8), tiny_dino)
    api = Api(Workspace(tmp_path), clicker, lambda album, references: None, other)
    shown = {photo["name"]: photo for photo in api.overview({"album": "."})["photos"]}
    by_score = api.alternatives({"album": ".", "photo": "b.png"})["alternatives"]
    assert all(found["words"].startswith("score") for found in by_score)  # nothing shows the subject yet
    api.refer({"album": ".", "photo": "a.png", "seen": shown["a.png"]["version"], "reference": True})
    found = api.alternatives({"album": ".", "photo": "b.png"})["alternatives"]
    assert {offer["key"] for offer in found} == {offer["key"] for offer in by_score}
    assert all(offer["picture"].startswith("data:image/png;base64,") for offer in found)
    question = {"album": ".", "photo": "b.png", "seen": shown["b.png"]["version"], "key": found[0]["key"]}
    assert "press “Other masks” again" in api.take(question | {"photo": "a.png"})["error"]
    assert "changed in another tab" in api.take(question | {"seen": "earlier"})["error"]
    taken = api.take(question)["photo"]
    assert taken["source"] == "corrected" and taken["point_labels"] == [1]
    assert iou(files.read_mask(output / "masks" / "b.png"), true["b.png"]) > 0.8
    again = api.alternatives({"album": ".", "photo": "b.png"})["alternatives"]
    assert found[0]["key"] not in {offer["key"] for offer in again}  # it is the photo's mask now
    api.undo(question | {"seen": taken["version"]})
    after = contents(output)
    assert {path: after[path] for path in before if "b" in path.stem[:1]} == {
        path: before[path] for path in before if "b" in path.stem[:1]
    }


def test_mask_chosen_for_photo_without_one_makes_it_a_reference(tmp_path, clicker):
    true = beside_a_look_alike(tmp_path)
    shutil.rmtree(tmp_path / "segmented")
    api = Api(Workspace(tmp_path), clicker, lambda album, references: None)
    (shown,) = (photo for photo in api.overview({"album": "."})["photos"] if photo["name"] == "a.png")
    found = api.alternatives({"album": ".", "photo": "a.png"})["alternatives"]
    question = {"album": ".", "photo": "a.png", "seen": shown["version"]}
    masks = []
    for offer in found:
        answer = api.take(question | {"key": offer["key"]})["photo"]
        masks.append(files.read_mask(tmp_path / "segmented" / "masks" / "a.png"))
        question["seen"] = answer["version"]
        assert (answer["source"], answer["review"]) == ("reference", "approved")
    assert max(iou(mask, true["a.png"]) for mask in masks) > 0.8
