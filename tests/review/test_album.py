"""Updates of an open page: exactly what changed, and nothing if nothing did."""

import numpy as np
import pytest

from persam_dreambooth.photos import files
from persam_dreambooth.review import album
from persam_dreambooth.review.workspace import Workspace
from tests.review.albums import draw_photos, write_found
from tests.review.test_workspace import api_of, checked

NAMES = ("a.png", "b.png", "c.png")


@pytest.fixture
def folder(tmp_path):
    """Three photos with masks."""
    masks = draw_photos(tmp_path / "photos", NAMES)
    write_found(tmp_path / "photos", tmp_path / "photos" / "segmented", masks, {"b.png": 0.2})
    return tmp_path / "photos"


def poll(api, since=None):
    return checked(api.overview({"album": ".", "since": since}))


def names(answer):
    return [photo["name"] for photo in answer["photos"]]


def test_page_gets_each_change_once(folder):
    api = api_of(Workspace(folder))
    first = poll(api)
    assert names(first) == first["order"] == ["b.png", "a.png", "c.png"] and not first["keeps"]
    again = poll(api, first["since"])
    assert names(again) == [] and again["keeps"] and "order" not in again and again["since"] == first["since"]
    version = first["photos"][0]["version"]
    checked(api.judge({"album": ".", "photo": "b.png", "seen": version, "verdict": "approved"}))
    second = poll(api, first["since"])
    assert names(second) == ["b.png"] and second["keeps"] and second["order"] == ["a.png", "c.png", "b.png"]
    assert second["photos"][0]["status"] == "approved"
    assert names(poll(api, second["since"])) == []
    assert names(poll(api, first["since"])) == ["b.png"]  # a second page that has no updates yet
    for unknown in (None, "", "x", "x-1", f"{first['since']}0", 5, [], first["since"].split("-")[0] + "-" + "9" * 30):
        full = poll(api, unknown)
        assert len(full["photos"]) == 3 and not full["keeps"]


def test_added_and_removed_photos_and_foreign_mask_changes_are_reported(folder):
    api = api_of(Workspace(folder))
    since = poll(api)["since"]
    draw_photos(folder, ["d.png"])
    added = poll(api, since)
    assert names(added) == ["d.png"] and len(added["order"]) == 4
    files.write_mask(np.ones((48, 64), bool), folder / "segmented" / "masks" / "c.png")
    assert names(poll(api, added["since"])) == ["c.png"]
    (folder / "d.png").unlink()
    gone = poll(api, poll(api)["since"])
    assert names(gone) == [] and len(poll(api)["order"]) == 3
    fewer = poll(api, added["since"])
    assert not fewer["keeps"] and len(fewer["photos"]) == 3


def test_mask_overwritten_in_place_is_noticed_little_later(folder, monkeypatch):
    api = api_of(Workspace(folder))
    since = poll(api)["since"]
    since = poll(api, since)["since"]
    mask = folder / "segmented" / "masks" / "c.png"
    content = mask.with_name("c.png").read_bytes()
    files.write_mask(np.ones((48, 64), bool), folder / "other.png")
    other = (folder / "other.png").read_bytes()
    (folder / "other.png").unlink()
    since = poll(api, since)["since"]
    with mask.open("r+b") as file:
        file.write(other)
        file.truncate()
    assert content != other
    monkeypatch.setattr(album, "TRUSTED", 0.0)
    assert names(poll(api, since)) == ["c.png"]
