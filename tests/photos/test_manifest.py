"""The manifest: entries survive writing and reading, a killed writer loses one line, damage is refused."""

import json
import os
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos.manifest import (
    MANIFEST_NAME,
    OWN_FILES,
    ManifestEntry,
    ManifestIndex,
    append_entry,
    read_manifest,
    stream_manifest,
    write_manifest,
)

# Any text that UTF-8 can hold, and the surrogates by which Python spells file names that are not UTF-8.
TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from("\x85\u2028\u2029\udcff"),
    max_size=20,
)
PIXEL = st.integers(0, 20_000)
POINTS = st.lists(st.lists(PIXEL, min_size=2, max_size=2), max_size=3)
ENTRIES = st.builds(
    ManifestEntry,
    photo=TEXT,
    digest=st.text("0123456789abcdef", min_size=64, max_size=64),
    width=st.none() | PIXEL,
    height=st.none() | PIXEL,
    source=st.none() | st.sampled_from(["persam", "reference", "given"]),
    score=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    points=POINTS,
    point_labels=st.lists(st.integers(0, 1), max_size=3),
    box=st.none() | st.lists(PIXEL, min_size=4, max_size=4),
    warnings=st.lists(TEXT, max_size=2),
    error=st.none() | TEXT,
)
ENTRIES = st.builds(
    lambda entry, named: replace(entry, **{key: OWN_FILES[key].format(Path(entry.photo).stem) for key in named}),
    ENTRIES,
    st.sets(st.sampled_from(sorted(OWN_FILES))),
)
# Few enough names that they repeat, also in other folders and with other suffixes.
NAMES = st.builds(
    "{}/{}{}".format, st.sampled_from(["..", "a"]), st.sampled_from("aé\udcff"), st.sampled_from([".jpg", ".png"])
)
NAMED = st.builds(
    lambda entry, name: replace(entry, photo=name, mask=None, overlay=None, instances=None), ENTRIES, NAMES
)
FIRST = ManifestEntry(
    "../photos/Hündin am Käsebrett.jpg", "ab" * 32, 640, 480, "masks/Hündin am Käsebrett.png", score=0.75
)
SECOND = ManifestEntry("../photos/犬.png", "cd" * 32, error="cannot be decoded")
THIRD = ManifestEntry("../photos/c.png", "ef" * 32, points=[[3, 4], [5, 6]], point_labels=[1, 0], box=[0, 1, 2, 3])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("manifest")


@pytest.fixture
def path(tmp_path):
    return tmp_path / MANIFEST_NAME


@settings(deadline=None, max_examples=60)
@given(entries=st.lists(ENTRIES, max_size=4))
def test_written_entries_are_read_back(folder, entries):
    write_manifest(folder / MANIFEST_NAME, entries)
    assert read_manifest(folder / MANIFEST_NAME) == entries


@settings(deadline=None, max_examples=60)
@given(written=st.lists(ENTRIES, max_size=2), appended=st.lists(ENTRIES, max_size=2))
def test_appended_entries_follow_existing_ones(folder, written, appended):
    write_manifest(folder / MANIFEST_NAME, written)
    for entry in appended:
        append_entry(folder / MANIFEST_NAME, entry)
    assert read_manifest(folder / MANIFEST_NAME) == written + appended


def test_appending_creates_missing_manifest(path):
    assert read_manifest(path) == []
    append_entry(path, FIRST)
    assert read_manifest(path) == [FIRST]


def test_manifest_is_one_plain_json_line_per_photo(path):
    write_manifest(path, [FIRST, SECOND])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [asdict(FIRST), asdict(SECOND)]
    assert "Hündin" in lines[0]
    assert "犬" in lines[1]


def test_truncated_last_line_is_skipped(path):
    write_manifest(path, [FIRST, SECOND, THIRD])
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert read_manifest(path) == [FIRST, SECOND]
    path.write_bytes(whole[:-1])  # all but the newline: nothing is lost
    assert read_manifest(path) == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize("damage", ['{"photo": "b.jpg", "dig', "", "not json"])
def test_damaged_line_before_last_is_refused_with_its_number(path, damage):
    write_manifest(path, [FIRST, SECOND, THIRD])
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], damage, lines[2], ""]), encoding="utf-8")
    with pytest.raises(UserError, match=r"line 2 .* is damaged") as error:
        read_manifest(path)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"photo": "b.jpg", "digest": "00", "caption": "a dog"},
        {"file_name": "b.jpg", "text": "a dog"},
        {"photo": "b.jpg"},
        {"digest": "00"},
        ["b.jpg", "00"],
        "b.jpg",
        None,
    ],
)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_line_that_is_not_entry_is_refused_anywhere(path, values, position):
    lines = [json.dumps(asdict(FIRST)), json.dumps(asdict(SECOND))]
    lines.insert(position, json.dumps(values))
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    with pytest.raises(UserError, match=rf"line {position + 1} .* is not a manifest entry"):
        read_manifest(path)


HOSTILE = {
    "another photo's mask": {"mask": "masks/b.png"},
    "a file above": {"mask": "../a.png"},
    "an absolute path": {"overlay": "/tmp/a.jpg"},
    "a way round": {"mask": "masks/../../a.png"},
    "another folder": {"instances": "masks/a.png"},
    "a list as a name": {"mask": ["masks/a.png"]},
    "a list as a digest": {"digest": ["00"]},
    "a NUL": {"reason": "a\0b"},
    "half a pair": {"reason": "\ud800"},
    "yes as a width": {"width": True},
    "words as a width": {"width": "12"},
    "a huge width": {"width": 10**12},
    "no list of points": {"points": 3},
    "points of words": {"points": [["a", "b"]]},
    "infinity": {"score": float("inf")},
    "no number": {"score": float("nan")},
}


@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE)
def test_line_with_foreign_paths_or_wrong_types_is_refused(path, values):
    path.write_text(json.dumps({"photo": "a.jpg", "digest": "00"} | values) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 1 .* is not a manifest entry") as refused:
        read_manifest(path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"photo": ' * 100_000, '{"photo": "a", "digest": ' + "9" * 6000 + "}"]
)
def test_line_too_extreme_for_parser_is_refused(path, text):
    path.write_text(text + "\n" + json.dumps(asdict(FIRST)) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 1 "):
        read_manifest(path)


def test_manifest_that_is_pipe_does_not_block(path):
    os.mkfifo(path)
    with pytest.raises(UserError, match="named pipe"):
        read_manifest(path)


def test_files_behind_links_are_refused(path, tmp_path):
    write_manifest(path, [ManifestEntry("a.jpg", "00", mask="masks/a.png")])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "masks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="its mask lies behind a link"):
        read_manifest(path)
    (tmp_path / "masks").unlink()
    (tmp_path / "masks").mkdir()
    assert len(read_manifest(path)) == 1
    (tmp_path / "masks" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match="its mask lies behind a link"):
        read_manifest(path)


def test_manifest_that_training_writes_may_name_masks_elsewhere(path):
    entry = ManifestEntry("../photos/a.jpg", "00", mask="../masks/a.png")
    write_manifest(path, [entry])
    assert read_manifest(path, own_files=False) == [entry]


def test_line_with_only_photo_and_digest_is_entry(path):
    path.write_text('{"photo": "b.jpg", "digest": "00"}\n', encoding="utf-8")
    assert read_manifest(path) == [ManifestEntry("b.jpg", "00")]


def test_interrupted_rewrite_leaves_only_old_manifest(path):
    write_manifest(path, [FIRST, SECOND])
    before = path.read_bytes()

    def interrupted():
        yield THIRD
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(path, interrupted())
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@settings(deadline=None, max_examples=60)
@given(older=st.lists(NAMED, max_size=4), newer=st.lists(NAMED, max_size=4))
def test_index_has_newest_line_per_mask_name_except_reviewed_ones(folder, older, newer):
    write_manifest(folder / "older.jsonl", older)
    write_manifest(folder / "newer.jsonl", newer)
    expected = {Path(entry.photo).stem: entry for entry in older}
    reviewed = {stem for stem, entry in expected.items() if entry.reviewed}
    expected |= {stem: entry for entry in newer if (stem := Path(entry.photo).stem) not in reviewed}
    index = ManifestIndex(folder / "older.jsonl", folder / "newer.jsonl")
    assert {stem: index.get(f"elsewhere/{stem}.tif") for stem in expected} == expected
    assert list(index) == [expected[stem] for stem in sorted(expected, key=os.fsencode)]


def test_index_of_missing_file_is_empty(path):
    assert ManifestIndex(path).get("a.jpg") is None
    assert list(ManifestIndex(path)) == []


def peak(path, count, read):
    """Return the peak memory, in bytes, of copying a manifest with `count` lines."""
    write_manifest(path, (replace(SECOND, photo=f"{number:06}.jpg") for number in range(count)))
    tracemalloc.start()
    write_manifest(path, read(path))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_memory_does_not_grow_with_number_of_lines(path):
    # The smaller of two, since Python's own string tables grow in jumps.
    assert min(peak(path, 8000, stream_manifest) for _ in range(2)) < peak(path, 1000, stream_manifest) + 50_000


def test_the_index_takes_little_more_memory_than_its_lines(path):
    """A line is 0.4 to 0.6 kB, its key and its place 0.2 kB: 70 MB for 100,000 photos, measured."""
    fewer, more = (peak(path, count, ManifestIndex) for count in (1000, 8000))
    assert more - fewer < path.stat().st_size * 7 / 8 + 7000 * 250


def test_earlier_line_of_a_photo_without_a_mask_is_read(tmp_path):
    line = '{"photo": "../a.png", "digest": "", "source": "persam", "error": "it cannot be decoded"}\n'
    (tmp_path / MANIFEST_NAME).write_text(line)
    (entry,) = read_manifest(tmp_path / MANIFEST_NAME)
    assert entry.source == "persam" and entry.was_found and not entry.reviewed
    assert entry.was_found == replace(entry, source=None).was_found
