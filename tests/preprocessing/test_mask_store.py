"""A subject's output folder across runs: whose it is, what is unfinished, and what a new run keeps."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, append_entry, read_manifest
from persam_dreambooth.preprocessing.mask_store import SETTINGS_NAME, SHEET_NAME, MaskStore, write_sheet
from persam_dreambooth.preprocessing.references import ReferenceFiles
from tests.review.albums import contents, draw_photos, write_found

NAMES = ("a.png", "b.png", "c.png")


@pytest.fixture
def output(tmp_path):
    """The output of a run, inside the folder of its three photos."""
    masks = draw_photos(tmp_path, NAMES)
    write_found(tmp_path, tmp_path / "out", masks, {"b.png": 0.2})
    return tmp_path / "out"


def photos_of(output):
    return [output.parent / name for name in NAMES]


def line_of(output, name, **changes):
    """Append a photo's line with changes."""
    entry = {entry.photo: entry for entry in read_manifest(output / MANIFEST_NAME)}[f"../{name}"]
    append_entry(output / MANIFEST_NAME, replace(entry, **changes))


def named(paths):
    return [path.name for path in paths]


def test_folder_belongs_to_the_run_of_its_settings(output, tmp_path):
    files.write_json({"sam": "one", "names": ["a"]}, output / SETTINGS_NAME)
    MaskStore(output, {"sam": "one", "names": ("a",)}).check()
    other = MaskStore(output, {"sam": "two"})
    with pytest.raises(UserError, match=r"holds another run \(sam differ\); .* `persam-dreambooth segment --again`"):
        other.check()
    other.check(again=True)
    MaskStore(tmp_path / "new").check()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.txt").touch()
    for again in (False, True):
        with pytest.raises(UserError, match="mine exists and is not from an earlier segmentation run"):
            MaskStore(tmp_path / "mine").check(again)


def test_unfinished_photos_lack_files_or_have_changed(output):
    photos = photos_of(output)
    assert MaskStore(output).unfinished(photos, quiet=True) == []
    assert MaskStore(output, with_instances=True).unfinished(photos, quiet=True) == photos
    assert MaskStore(output, with_confidence=True).unfinished(photos, quiet=True) == photos
    line_of(output, "c.png", review="approved")  # a person's needs neither
    assert MaskStore(output, with_instances=True).unfinished(photos, quiet=True) == photos[:2]
    (output / "overlays" / "a.jpg").unlink()
    Image.new("RGB", (64, 48)).save(photos[1])
    new = output.parent / "d.png"
    assert named(MaskStore(output).unfinished([*photos, new], quiet=True)) == ["a.png", "b.png", "d.png"]
    line_of(output, "c.png", error="it was broken")
    assert named(MaskStore(output).unfinished(photos, quiet=True)) == list(NAMES)


def test_taking_over_keeps_only_what_a_person_decided(output):
    line_of(output, "b.png", review="excluded")
    line_of(output, "c.png", source="reference")
    other = ReferenceFiles(output.parent / "c.png", output.parent / "new.png")
    store = MaskStore(output, {"sam": "new"}, [other])
    store.begin(photos_of(output), again=True)
    (entry,) = store.entries()
    assert (entry.photo, entry.review) == ("../b.png", "excluded")  # c.png is a reference with another mask now
    assert {path.name for path in contents(output)} == {"b.png", "b.jpg", MANIFEST_NAME, SETTINGS_NAME}
    MaskStore(output, {"sam": "new"}).check()


def test_reviewed_mask_follows_its_photo_or_is_dropped(output, caplog):
    """One photo was saved again, one with another size; the third has lost its mask."""
    for name in NAMES:
        line_of(output, name, review="approved")
    a, b, _ = photos_of(output)
    Image.new("RGB", (64, 48), "blue").save(a)
    Image.new("RGB", (30, 30)).save(b)
    (output / "masks" / "c.png").unlink()
    mask = (output / "masks" / "a.png").read_bytes()
    store = MaskStore(output)
    store.begin(photos_of(output))
    (entry,) = store.entries()
    assert (entry.photo, entry.digest, entry.review) == ("../a.png", files.digest(a), "approved")
    assert (output / "masks" / "a.png").read_bytes() == mask
    assert np.asarray(files.read_photo(output / entry.overlay)).mean((0, 1)).argmax() == 2  # the new photo is blue
    assert "the mask of b.png was made on a photo of another size" in caplog.text


def test_finished_folder_has_one_sorted_manifest_and_no_files_of_gone_photos(output):
    photos = photos_of(output)
    store = MaskStore(output)
    store.begin(photos)
    (output / SHEET_NAME).write_bytes(b"of the earlier run")
    append_entry(output / "manifest.1.jsonl", ManifestEntry("../b.png", "1", error="it is broken"))
    store.finish([photos[1], photos[0]], {output.parent / "clip.mov": "a video"})
    assert [(entry.photo, entry.error) for entry in store.entries()] == [
        ("../b.png", "it is broken"),
        ("../a.png", None),
    ]
    assert not list(output.glob("manifest.*.jsonl")) and not (output / "masks" / "c.png").exists()
    assert Image.open(output / SHEET_NAME).format == "PNG" and (output / files.UNREAD_NAME).exists()
    sheet = (output / SHEET_NAME).stat().st_mtime_ns
    store.begin([photos[1], photos[0]])
    store.finish([photos[1], photos[0]])
    assert (output / SHEET_NAME).stat().st_mtime_ns == sheet and not (output / files.UNREAD_NAME).exists()
    (output / SETTINGS_NAME).unlink()
    with pytest.raises(UserError, match="out was removed while its photos were segmented"):
        store.finish(photos)


def test_sheet_is_drawn_only_where_there_are_masks(output):
    write_sheet(output, lambda: iter([ManifestEntry("../a.png", "1", error="it is broken")]))
    assert not (output / SHEET_NAME).exists()
    write_sheet(output, MaskStore(output).entries)
    before = (output / SHEET_NAME).read_bytes()
    (output / "overlays" / "a.jpg").unlink()
    write_sheet(output, MaskStore(output).entries)
    assert (output / SHEET_NAME).read_bytes() == before
