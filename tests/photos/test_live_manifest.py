"""A manifest that is polled: only new lines are read, and every other change is noticed."""

import os

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.json_lines import append_line
from persam_dreambooth.photos.live_manifest import LiveManifest
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, append_entry, write_manifest


def test_only_appended_manifest_lines_are_read_and_other_changes_are_noticed(tmp_path):
    path = tmp_path / MANIFEST_NAME
    live = LiveManifest(path)
    assert live.entries() == {}
    first, second, newer = ManifestEntry("a.jpg", "0"), ManifestEntry("b.jpg", "1"), ManifestEntry("a.jpg", "2")
    write_manifest(path, [first, second])
    before = dict(live.entries())
    append_entry(path, newer)
    assert live.entries() == {"a": newer, "b": second} and live.get("x/b.png") is before["b"]  # not read again
    write_manifest(path, [second, newer, first])  # another file, longer
    assert live.get("a.jpg") == first
    os.truncate(path, path.stat().st_size - 5)  # a truncated line
    assert live.get("a.jpg") == newer
    path.unlink()
    assert live.get("a.jpg") is None


def test_an_appended_line_that_is_refused_has_its_number_in_the_whole_file(tmp_path):
    path = tmp_path / MANIFEST_NAME
    write_manifest(path, [ManifestEntry("a.jpg", "0"), ManifestEntry("b.jpg", "1")])
    live = LiveManifest(path)
    assert len(live.entries()) == 2
    append_line(path, b'{"photo": "c.jpg"}\n')
    with pytest.raises(UserError, match=r"line 3 of .* is not a manifest entry"):
        live.entries()
