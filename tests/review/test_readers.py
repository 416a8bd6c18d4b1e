"""Every reader of a manifest uses a photo's newest line, which the page appends."""

import pytest

from persam_dreambooth.cli.segment import _say
from persam_dreambooth.evaluation.generation.plan import photos_with_masks
from persam_dreambooth.formats.export import read_selection
from persam_dreambooth.photos.manifest import MANIFEST_NAME, read_manifest
from persam_dreambooth.preprocessing.mask_store import MaskStore
from persam_dreambooth.review.album import Album
from tests.review.albums import draw_photos, write_found
from tests.review.test_page import trained_on

NAMES = ["a.png", "b.png", "c.png"]


@pytest.fixture
def album(tmp_path):
    """Three photos: the first was excluded, then restored; the second approved, then excluded."""
    masks = draw_photos(tmp_path / "photos", NAMES)
    write_found(tmp_path / "photos", tmp_path / "photos" / "segmented", masks, {})
    album = Album(tmp_path / "photos", tmp_path / "photos" / "segmented")
    for name, verdict in (("a.png", "excluded"), ("a.png", None), ("b.png", "approved"), ("b.png", "excluded")):
        state = album.state(name)
        album.edits.judge(state.photo, verdict, state.version)
    assert len(read_manifest(album.output / MANIFEST_NAME)) == 7
    return album


def test_training_uses_newest_line(album):
    assert trained_on(album.images) == ["a.png", "c.png"]


def test_export_uses_newest_line(album):
    for images in (None, album.images):
        source = read_selection(album.output, images)
        assert [pair.photo.name for pair in source.pairs] == ["a.png", "c.png"]
        assert [photo.name for photo in source.left_out] == ["b.png"]


def test_evaluation_uses_newest_line(album):
    kept, left_out = photos_with_masks(album.images, album.output)
    assert [photo.image.name for photo in kept] == ["a.png", "c.png"]
    assert left_out == ["b.png was excluded in review"]


def test_segment_counts_each_photo_once_and_keeps_one_line_each(album, capsys):
    _say(album.output)
    assert capsys.readouterr().out.startswith("3 masks in ")
    MaskStore(album.output).begin([])
    entries = read_manifest(album.output / MANIFEST_NAME)
    assert [(entry.photo, entry.review) for entry in entries] == [
        ("../a.png", None),
        ("../b.png", "excluded"),
        ("../c.png", None),
    ]
    assert album.state("b.png").status == "excluded" and len(album.states()) == 3
