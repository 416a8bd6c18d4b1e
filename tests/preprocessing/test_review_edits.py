"""A person's decisions on disk are atomic, undone to the byte, and never overwrite another decision."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import newest_entries, parse_line
from persam_dreambooth.preprocessing.finder import LoadedPhoto
from persam_dreambooth.preprocessing.found import Found
from persam_dreambooth.preprocessing.mask_writer import MaskWriter
from persam_dreambooth.preprocessing.review_edits import Conflict
from persam_dreambooth.review.album import Album
from persam_dreambooth.review.workspace import Workspace
from tests.review.albums import contents, draw_photos, write_found

NAMES = ("a.png", 'b "quoted" <i>.png', "c.jpg")


@pytest.fixture
def album(tmp_path):
    """Three photos with found masks; the second is the worst."""
    masks = draw_photos(tmp_path / "photos", NAMES)
    output = tmp_path / "photos" / "segmented"
    write_found(tmp_path / "photos", output, masks, {NAMES[1]: 0.2})
    return Album(tmp_path / "photos", output)


def entry(album, name):
    return next(state.entry for state in album.states() if state.photo.name == name)


def seen(album, name):
    return album.state(name).version


def paint(album, name, version=None, **changes):
    """Correct a photo's mask to another one; return the new mask."""
    mask = np.roll(files.read_mask(album.edits.mask_path(album.photo(name))), 7, axis=1)
    album.edits.correct(album.photo(name), mask, version or seen(album, name), changes)
    return mask


def test_worst_photo_comes_first_and_reviewed_photos_last(album):
    assert [state.photo.name for state in album.states()] == [NAMES[1], NAMES[0], NAMES[2]]
    album.edits.judge(album.photo(NAMES[1]), "approved", seen(album, NAMES[1]))
    album.edits.judge(album.photo(NAMES[0]), "excluded", seen(album, NAMES[0]))
    assert [state.status for state in album.states()] == ["found", "approved", "excluded"]


def test_correction_writes_mask_overlay_and_manifest_line(album):
    before = contents(album.output)
    mask = paint(album, NAMES[0])
    after = contents(album.output)
    changed = {path.as_posix() for path in after if before.get(path) != after[path]}
    assert changed == {"masks/a.png", "overlays/a.jpg", "manifest.jsonl"}
    np.testing.assert_array_equal(files.read_mask(album.output / "masks" / "a.png"), mask)
    line = entry(album, NAMES[0])
    assert (line.source, line.score, line.uncertain) == ("corrected", None, False)
    assert line.mask_digest == files.digest(album.output / "masks" / "a.png")
    rows, columns = np.nonzero(mask)
    assert line.box == [columns.min(), rows.min(), columns.max(), rows.max()]
    *old, new = (album.output / "manifest.jsonl").read_bytes().splitlines()
    assert old == before_lines(before) and parse_line(new) == line  # one line is appended, the others stay unchanged


def before_lines(before):
    return next(content for path, content in before.items() if path.name == "manifest.jsonl").splitlines()


def test_decisions_are_undone_byte_for_byte_in_reverse_order(album):
    first = contents(album.output)
    photo = album.photo(NAMES[1])
    paint(album, NAMES[1])
    second = contents(album.output)
    album.edits.judge(photo, "excluded", seen(album, NAMES[1]))
    third = contents(album.output)
    album.edits.refer(photo, True, seen(album, NAMES[1]))
    for expected in (third, second, first):
        album.edits.undo(photo, seen(album, NAMES[1]))
        assert contents(album.output) == expected
    with pytest.raises(UserError, match="nothing to undo"):
        album.edits.undo(photo, seen(album, NAMES[1]))


def test_undo_keeps_bytes_of_manifest_from_before_reviews(album):
    path = album.output / "manifest.jsonl"
    path.write_bytes(path.read_bytes().replace(b', "review": null', b""))
    before = contents(album.output)
    album.edits.judge(album.photo(NAMES[1]), "approved", seen(album, NAMES[1]))
    assert entry(album, NAMES[1]).review == "approved"
    album.edits.undo(album.photo(NAMES[1]), seen(album, NAMES[1]))
    assert contents(album.output) == before


def test_second_tab_is_refused_and_first_loses_nothing(album):
    version = seen(album, NAMES[0])
    paint(album, NAMES[0], version)
    before = contents(album.output)
    decisions = {
        "correct": lambda: paint(album, NAMES[0], version),
        "judge": lambda: album.edits.judge(album.photo(NAMES[0]), "excluded", version),
        "refer": lambda: album.edits.refer(album.photo(NAMES[0]), True, version),
        "undo": lambda: album.edits.undo(album.photo(NAMES[0]), version),
    }
    for decide in decisions.values():
        with pytest.raises(Conflict, match=r"a\.png was changed in another tab"):
            decide()
    assert contents(album.output) == before


def test_mask_changed_by_other_program_is_neither_overwritten_nor_undone(album):
    paint(album, NAMES[0])
    version = seen(album, NAMES[0])
    files.write_mask(np.ones((48, 64), bool), album.output / "masks" / "a.png")
    before = contents(album.output)
    with pytest.raises(Conflict):
        paint(album, NAMES[0], version)
    with pytest.raises(Conflict, match="by another program"):
        album.edits.undo(album.photo(NAMES[0]), seen(album, NAMES[0]))
    assert contents(album.output) == before


def test_failure_halfway_changes_nothing(album):
    overlays = album.output / "overlays"
    overlays.rename(album.output / "aside")
    overlays.write_text("a file where a folder should be")
    before = contents(album.output)
    with pytest.raises(OSError, match="overlays"):
        paint(album, NAMES[0])
    assert contents(album.output) == before


def test_concurrent_decisions_are_all_kept(album):
    def work(name):
        for number in range(20):
            assert entry(album, name).review == (None if number == 0 else ("excluded", "approved")[number % 2])
            album.edits.judge(album.photo(name), ("approved", "excluded")[number % 2], seen(album, name))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(len(NAMES)) as threads:
            list(threads.map(work, NAMES))  # raises the exception of any thread
    finally:
        sys.setswitchinterval(interval)
    entries = newest_entries(album.output / "manifest.jsonl")
    assert [entry.review for entry in entries] == ["excluded"] * len(NAMES)


def test_run_does_not_overwrite_masks_drawn_while_it_ran(album):
    run = MaskWriter(album.output)
    photo = album.photo(NAMES[0])
    mask = paint(album, NAMES[0])
    run.add(LoadedPhoto(photo, files.digest(photo), files.read_photo(photo)), Found(~mask))
    np.testing.assert_array_equal(files.read_mask(album.output / "masks" / "a.png"), mask)
    assert entry(album, NAMES[0]).source == "corrected"


def test_unreadable_photo_does_not_hide_mask_drawn_before_it(album):
    run = MaskWriter(album.output)
    photo = album.photo(NAMES[0])
    mask = paint(album, NAMES[0])
    run.add(LoadedPhoto(album.photo(NAMES[2]), "", error="it is damaged"), None)
    run.add(LoadedPhoto(photo, files.digest(photo), files.read_photo(photo)), Found(~mask))
    np.testing.assert_array_equal(files.read_mask(album.output / "masks" / "a.png"), mask)
    assert entry(album, NAMES[0]).source == "corrected"


def test_first_drawing_creates_folder_and_reference(tmp_path):
    masks = draw_photos(tmp_path / "photos", NAMES)
    album = Album(tmp_path / "photos", tmp_path / "masks here")
    changes = {"source": "reference", "review": "approved"}
    album.edits.correct(album.photo(NAMES[1]), masks[NAMES[1]], seen(album, NAMES[1]), changes)
    (reference,) = album.references()
    assert reference.image.name == NAMES[1]
    np.testing.assert_array_equal(files.read_mask(reference.mask), masks[NAMES[1]])
    assert [state.status for state in album.states()] == ["reference", "waiting", "waiting"]
    with pytest.raises(UserError, match="no mask yet"):
        album.edits.judge(album.photo(NAMES[0]), "approved", seen(album, NAMES[0]))


@pytest.mark.parametrize("size", [0, 50_000], ids=["nothing fits", "all but the line fits"])
def test_first_decision_on_full_disk_leaves_nothing(size, tmp_path, file_limit):
    masks = draw_photos(tmp_path / "photos", NAMES)
    album = Album(tmp_path / "photos", tmp_path / "photos" / "segmented")
    version = seen(album, NAMES[0])
    file_limit(size)
    with pytest.raises(OSError, match=r"File too large|No space left"):
        album.edits.correct(album.photo(NAMES[0]), masks[NAMES[0]], version, {"reason": "long " * 20_000})
    assert [path.name for path in album.output.rglob("*")] == [".manifest.lock"]
    Workspace(tmp_path / "photos")  # would refuse unknown files
    file_limit(10**6)
    album.edits.correct(album.photo(NAMES[0]), masks[NAMES[0]], version, {"source": "reference"})
    assert len(album.references()) == 1


def test_excluded_reference_is_no_longer_used(album):
    photo = album.photo(NAMES[0])
    album.edits.refer(photo, True, seen(album, NAMES[0]))
    assert [reference.image.name for reference in album.references()] == [NAMES[0]]
    album.edits.judge(photo, "excluded", seen(album, NAMES[0]))
    assert album.references() == ()
    assert replace(entry(album, NAMES[0]), review=None).source == "reference"


def test_mask_of_wrong_size_is_refused(album):
    before = contents(album.output)
    with pytest.raises(UserError, match="does not fit"):
        album.edits.correct(album.photo(NAMES[0]), np.ones((5, 5), bool), seen(album, NAMES[0]), {})
    assert contents(album.output) == before


def test_photo_linked_from_outside_is_not_shown(album, tmp_path):
    draw_photos(tmp_path / "elsewhere", ["secret.png"])
    (album.images / "secret.png").symlink_to(tmp_path / "elsewhere" / "secret.png")
    assert [state.photo.name for state in album.states()] == [NAMES[1], NAMES[0], NAMES[2]]
    with pytest.raises(UserError, match="no longer a photo"):
        album.photo("secret.png")
