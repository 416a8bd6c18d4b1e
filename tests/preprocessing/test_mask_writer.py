"""The files of one photo's mask: written with its line, kept from a person's decision, and put back after a kill."""

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import (
    MANIFEST_NAME,
    ManifestEntry,
    append_entry,
    format_line,
    manifest_line,
    newest_entries,
    parse_line,
)
from persam_dreambooth.preprocessing.finder import LoadedPhoto
from persam_dreambooth.preprocessing.found import Found
from persam_dreambooth.preprocessing.mask_writer import (
    JOURNAL_NAME,
    MaskWriter,
    confidence_path,
    files_of,
    remember,
    remove_files,
    roll_back,
)
from persam_dreambooth.segmentation import Segmentation
from tests.review.albums import contents
from tests.scene import scene

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def photo(tmp_path):
    pixels, _ = scene(HEIGHT, WIDTH)
    path = tmp_path / "photos" / "a.jpg"
    files.write_picture(Image.fromarray(pixels), path)
    return LoadedPhoto(path, files.digest(path), files.read_photo(path))


def mask_of(*box):
    left, top, right, bottom = box
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


def instance(mask, score=0.5):
    x, y = (int(places.mean()) for places in np.nonzero(mask)[::-1])
    points = np.array([[x, y], [0, 0]])
    return Segmentation(mask, score, points, np.array([1, 0]), None, np.zeros(mask.shape, np.float32), None, ())


def found_with(*masks):
    instances = tuple(instance(mask, 0.5 + number / 4) for number, mask in enumerate(masks))
    return Found(np.any(masks, axis=0), "persam", instances)


def test_mask_and_line_describe_each_other(photo, tmp_path):
    output = tmp_path / "out"
    mask = mask_of(10, 5, 30, 25)
    MaskWriter(output).add(photo, found_with(mask))
    (entry,) = newest_entries(output / MANIFEST_NAME)
    np.testing.assert_array_equal(files.read_mask(output / entry.mask), mask)
    assert (entry.photo, entry.digest, entry.mask) == ("../photos/a.jpg", photo.digest, "masks/a.png")
    assert entry.mask_digest == files.digest(output / entry.mask)
    assert (entry.box, entry.score, entry.source) == ([10, 5, 30, 25], 0.5, "persam")
    assert (entry.points, entry.point_labels, entry.instances) == ([[20, 15], [0, 0]], [1, 0], None)
    with Image.open(output / entry.overlay) as overlay:
        assert (overlay.format, overlay.size) == ("JPEG", (entry.width, entry.height)) == ("JPEG", (WIDTH, HEIGHT))
    assert not (output / "instances").exists() and not (output / "confidence").exists()


def test_instances_are_numbered_and_maps_drawn_on_request(photo, tmp_path):
    first, second = mask_of(0, 0, 9, 9), mask_of(20, 20, 39, 29)
    MaskWriter(tmp_path / "out", with_instances=True, with_confidence=True).add(photo, found_with(first, second))
    (entry,) = newest_entries(tmp_path / "out" / MANIFEST_NAME)
    with Image.open(tmp_path / "out" / entry.instances) as labels:
        np.testing.assert_array_equal(np.asarray(labels), first + 2 * second.astype(np.uint8))
    assert entry.score == 0.75 and len(entry.points) == 4  # the best of both
    assert confidence_path(tmp_path / "out", entry) == tmp_path / "out" / "confidence" / "a.jpg"
    with Image.open(confidence_path(tmp_path / "out", entry)) as picture:
        assert picture.size == (WIDTH, HEIGHT)


def test_photo_that_cannot_be_decoded_has_only_a_line(photo, tmp_path):
    broken = LoadedPhoto(photo.path, "0" * 64, error="it is broken")
    MaskWriter(tmp_path / "out", process=2).add(broken, None)
    assert {path.name for path in contents(tmp_path / "out")} == {"manifest.2.jsonl"}  # each process has a journal
    (entry,) = newest_entries(tmp_path / "out" / "manifest.2.jsonl")
    assert (entry.error, entry.mask, entry.source, entry.width) == ("it is broken", None, None, None)


def test_decisions_made_meanwhile_are_kept(photo, tmp_path):
    writer, output = MaskWriter(tmp_path / "out"), tmp_path / "out"
    writer.add(photo, found_with(mask_of(0, 0, 9, 9)))
    writer.add(photo, found_with(mask_of(5, 5, 9, 9)))  # nobody has decided yet
    (entry,) = newest_entries(output / MANIFEST_NAME)
    assert entry.box == [5, 5, 9, 9]
    append_entry(output / MANIFEST_NAME, ManifestEntry(**vars(entry) | {"review": "approved"}))  # on the page
    before = contents(output)
    writer.add(photo, found_with(mask_of(0, 0, 9, 9)))
    MaskWriter(output).add(photo, found_with(mask_of(0, 0, 9, 9)))
    assert contents(output) == before


def test_files_of_a_photo_are_removed_except_those_to_keep(photo, tmp_path):
    output = tmp_path / "out"
    MaskWriter(output, with_instances=True, with_confidence=True).add(photo, found_with(mask_of(0, 0, 9, 9)))
    (entry,) = newest_entries(output / MANIFEST_NAME)
    remove_files(output, entry, keep=frozenset([str((output / entry.mask).resolve())]))
    assert {path.as_posix() for path in contents(output)} == {"masks/a.png", MANIFEST_NAME}
    remove_files(output, entry)
    assert {path.as_posix() for path in contents(output)} == {MANIFEST_NAME}


@pytest.mark.parametrize("written", [False, True])
def test_decision_is_undone_unless_its_line_was_written(written, photo, tmp_path):
    """The line is written last, so that without it the decision was interrupted."""
    output, path = tmp_path / "out", tmp_path / "out" / MANIFEST_NAME
    MaskWriter(output).add(photo, found_with(mask_of(0, 0, 9, 9)))
    (entry,) = newest_entries(path)
    before, own = contents(output), files_of(output, "a")
    line = format_line(parse_line(manifest_line(path, "a.png")))
    remember(output, "a", line, {file: file.read_bytes() if file.exists() else None for file in own})
    files.write_mask(mask_of(1, 1, 2, 2), own[0])
    files.write_mask(mask_of(1, 1, 2, 2), own[2])  # there were no instances
    own[1].unlink()
    if written:
        append_entry(path, ManifestEntry(**vars(entry) | {"source": "corrected"}))
    after = contents(output)
    roll_back(output)
    expected = {name: content for name, content in after.items() if name.name != JOURNAL_NAME} if written else before
    assert contents(output) == expected
    roll_back(output)
    assert contents(output) == expected


@pytest.mark.parametrize("damage", ["{}", '{"stem": "../b", "line": null, "files": [null, null, null]}', "[" * 9000])
def test_journal_of_another_program_moves_no_file(damage, photo, tmp_path):
    output = tmp_path / "out"
    MaskWriter(output).add(photo, found_with(mask_of(0, 0, 9, 9)))
    (tmp_path / "b.png").write_bytes(b"another's")
    before = contents(tmp_path)
    (output / JOURNAL_NAME).write_text(damage)
    roll_back(output)
    assert contents(tmp_path) == before
