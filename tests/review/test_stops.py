"""A decision killed at any file operation leaves the state before or after it, and the next start works."""

import errno
from itertools import count

import numpy as np
import pytest

from persam_dreambooth.atomic_io import UNFINISHED
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import (
    MANIFEST_NAME,
    ManifestEntry,
    append_entry,
    append_line,
    format_line,
    newest_entries,
    take_back_line,
)
from persam_dreambooth.preprocessing import SETTINGS_NAME
from persam_dreambooth.preprocessing.mask_writer import JOURNAL_NAME
from persam_dreambooth.review.album import Album
from persam_dreambooth.review.workspace import Workspace
from tests.kills import put_back, states_of_kills, watching
from tests.review.albums import contents, draw_photos, write_found

NAMES = ("a.png", "b.png", "c.png")


def state(output):
    """Return what is read back from a folder: lines, masks and so on, without leftovers and an empty manifest."""
    kept = {path.as_posix(): content for path, content in contents(output).items() if UNFINISHED not in path.name}
    kept.pop(MANIFEST_NAME, None)
    return kept | {"lines": {entry.photo: entry for entry in newest_entries(output / MANIFEST_NAME)}}


def decide(album, decision, masks):
    """Make one decision on the first photo."""
    edits, photo = album.edits, album.photo(NAMES[0])
    seen = album.state(NAMES[0]).version
    if decision == "correct":
        edits.correct(photo, np.roll(masks[NAMES[0]], 9, axis=1), seen, {"score": 0.5})
    elif decision == "judge":
        edits.judge(photo, "excluded", seen)
    elif decision == "refer":
        edits.refer(photo, True, seen)
    elif decision == "first":
        edits.correct(photo, masks[NAMES[0]], seen, {"source": "reference", "review": "approved"})
    else:
        edits.undo(photo, seen)


def prepared(folder, decision):
    """Prepare an album for the decision; before an undo, that is a correction, followed by others or not."""
    masks = draw_photos(folder / "photos", NAMES)
    output = folder / "photos" / "segmented"
    if decision != "first":
        write_found(folder / "photos", output, masks, {})
        files.write_mask(masks[NAMES[0]], output / "instances" / "a.png")
    album = Album(folder / "photos", output)
    if decision.startswith("undo"):
        decide(album, "correct", masks)
    if decision == "undo after others":
        other = album.state(NAMES[1])
        album.edits.judge(other.photo, "approved", other.version)
    return album, masks


@pytest.mark.parametrize("decision", ["correct", "judge", "refer", "undo", "undo after others", "first"])
def test_kill_at_any_file_operation_leaves_state_before_or_after(decision, tmp_path):
    album, masks = prepared(tmp_path, decision)
    before = state(album.output)
    *kills, finished = states_of_kills(
        lambda: decide(album, decision, masks), tmp_path / "photos", tmp_path / "states"
    )
    after = state(finished / "segmented")
    assert len(kills) > 3 and after != before
    for kill in kills:
        put_back(kill, tmp_path / "photos")
        workspace = Workspace(tmp_path / "photos")  # the next start
        again = Album(workspace.images, workspace.output_of("."))
        now = state(again.output)
        if now["lines"] == before["lines"]:
            now = {name: content for name, content in now.items() if name in before or name != SETTINGS_NAME}
        assert now in (before, after), (kill, set(now) ^ set(before))
        assert not (again.output / JOURNAL_NAME).exists()
        if now == before and not decision.startswith("undo"):
            decide(again, decision, masks)  # the decision can still be made and undone
            assert state(again.output) == after
            decide(again, "undo", masks)
            assert state(again.output)["lines"] == before["lines"]


def test_leftovers_of_disk_that_fails_are_rolled_back_by_next_decision(tmp_path):
    album, masks = prepared(tmp_path, "correct")
    before = state(album.output)
    operations = count()

    def fail_from_tenth(event, path):
        if ".manifest.lock" not in path and next(operations) >= 9:
            raise OSError(errno.EIO, "Input/output error", path)

    with pytest.raises(OSError, match="Input/output error"), watching(fail_from_tenth):
        decide(album, "correct", masks)
    decide(album, "judge", masks)  # the same server continues
    decide(album, "undo", masks)
    assert state(album.output) == before


@pytest.mark.parametrize("damage", ["no json", "[]", '{"stem": "../../x", "line": null, "files": [null, null, null]}'])
def test_foreign_journal_moves_no_file(damage, tmp_path):
    album, _ = prepared(tmp_path, "correct")
    (tmp_path / "x.png").write_bytes(b"another's")
    before = contents(tmp_path)
    (album.output / JOURNAL_NAME).write_text(damage)
    Album(album.images, album.output)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("tail", [b"", b'{"photo": "b.jpg", "dig', b'{"photo": "c.jpg", "digest": "2"}'])
def test_line_is_appended_after_last_complete_one(tail, tmp_path):
    path, first, new = tmp_path / MANIFEST_NAME, ManifestEntry("a.jpg", "0"), ManifestEntry("a.jpg", "1")
    append_entry(path, first)
    with path.open("ab") as file:
        file.write(tail)
    start = append_line(path, format_line(new))
    others = [ManifestEntry("c.jpg", "2")] if tail.endswith(b"}") else []
    assert newest_entries(path) == [new, *others]
    append_entry(path, ManifestEntry("b.jpg", "3"))
    assert not take_back_line(path, start, format_line(new))  # it is no longer the last one
    assert len(newest_entries(path)) == len(others) + 2


def test_changed_photo_is_marked_and_not_approved_with_its_old_mask(tmp_path):
    album, _ = prepared(tmp_path, "correct")
    first, second = (album.images / name for name in NAMES[:2])
    swapped = first.read_bytes(), second.read_bytes()
    first.write_bytes(swapped[1])
    second.write_bytes(swapped[0])
    states = {state.photo.name: state for state in album.states()}
    assert [states[name].status for name in NAMES] == ["changed", "changed", "found"]
    assert [states[name].has_mask for name in NAMES] == [False, False, True]
    for decide_on in (
        lambda: album.edits.judge(first, "approved", states["a.png"].version),
        lambda: album.edits.refer(first, True, states["a.png"].version),
    ):
        with pytest.raises(UserError, match=r"a\.png is not the photo its mask was made on; segment it again"):
            decide_on()
    album.edits.judge(first, "excluded", states["a.png"].version)
    assert album.state("a.png").status == "excluded"
    first.write_bytes(swapped[0])
    album.edits.undo(first, album.state("a.png").version)
    assert album.state("a.png").status == "found"


def test_line_that_does_not_fit_on_disk_leaves_manifest_unchanged(tmp_path, file_limit):
    path, first = tmp_path / MANIFEST_NAME, ManifestEntry("a.jpg", "0")
    append_entry(path, first)
    before = path.read_bytes()
    file_limit(len(before) + 10)
    with pytest.raises(OSError, match=r"No space left|File too large"):
        append_line(path, format_line(ManifestEntry("b.jpg", "1")))
    assert path.read_bytes() == before
