"""Which files of a folder are photos, and how those that are not read are reported."""

import os

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import listing


def touch(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"")


def assert_one_line_naming(error, path):
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_photos_are_sorted_and_suffixes_match_in_any_case(tmp_path):
    names = ["c.JPG", "a.png", "b.Jpeg", "d.webp", "e.BMP", "f.tif", "g.TIFF"]
    touch(tmp_path, *names)
    assert listing.find_photos(tmp_path) == sorted(tmp_path / name for name in names)


def test_hidden_files_other_kinds_and_folders_are_skipped(tmp_path):
    touch(tmp_path, "dog.jpg", ".hidden.jpg", "dog-masklabel.png", "notes.txt", "clip.mp4", "jpg", "raw.dng")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "deeper").mkdir()
    touch(tmp_path / "deeper", "cat.jpg")
    assert listing.find_photos(tmp_path) == [tmp_path / "dog.jpg"]


def test_excluded_files_are_skipped_however_their_path_is_written(tmp_path):
    touch(tmp_path, "dog.jpg", "dog.png", "cat.jpg")
    roundabout = tmp_path / ".." / tmp_path.name / "dog.png"
    found = listing.find_photos(tmp_path, besides=(roundabout, tmp_path / "absent.png"))
    assert found == [tmp_path / "cat.jpg", tmp_path / "dog.jpg"]


@pytest.mark.parametrize("name", ["absent", "file.jpg"])
def test_path_that_is_not_folder_is_refused(tmp_path, name):
    touch(tmp_path, "file.jpg")
    with pytest.raises(UserError, match="is not a folder") as error:
        listing.find_photos(tmp_path / name)
    assert_one_line_naming(error, tmp_path / name)


def test_folder_without_photos_is_refused_with_accepted_suffixes(tmp_path):
    touch(tmp_path, "mask.png", "notes.txt")
    with pytest.raises(UserError, match="no photo found") as error:
        listing.find_photos(tmp_path, besides=(tmp_path / "mask.png",))
    assert_one_line_naming(error, tmp_path)
    assert all(suffix in str(error.value) for suffix in listing.PHOTO_SUFFIXES)


def test_photos_that_differ_only_in_their_suffix_are_refused_by_name(tmp_path):
    touch(tmp_path, "dog.jpg", "dog.PNG", "cat.jpg", "sofa.bmp", "sofa.tif", "sofa.2.tif")
    with pytest.raises(UserError, match="same name") as error:
        listing.find_photos(tmp_path)
    assert all(name in str(error.value) for name in ("dog.jpg", "dog.PNG", "sofa.bmp", "sofa.tif"))
    assert "cat" not in str(error.value)
    assert "sofa.2" not in str(error.value)
    assert_one_line_naming(error, tmp_path)


def test_skipped_files_are_reported_with_reason(tmp_path):
    touch(tmp_path, "a.jpg", "a.txt", "a.json", ".hidden", "b.HEIC", "b.mov", "c.DNG", "what.xyz", "dog-masklabel.png")
    for name in ("deeper", "empty", "out", "masks"):
        (tmp_path / name).mkdir()
    touch(tmp_path / "deeper", "c.jpg", "d.png", "e.txt")
    touch(tmp_path / "out", "manifest.jsonl", "f.jpg")
    touch(tmp_path / "masks", "a.png")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    unread = {path.name: why for path, why in listing.unread_files(tmp_path, (tmp_path / "masks",)).items()}
    assert unread == {
        "b.mov": "a video: see `persam-dreambooth video`",
        "c.DNG": "a camera's raw file: export it as JPEG",
        "deeper": "a subfolder with 2 photos",
        "loop.jpg": "a broken link",
        "pipe.jpg": "not a regular file",
        "what.xyz": "an unsupported file type",
    }
    assert [path.name for path in listing.find_photos(tmp_path)] == ["a.jpg", "b.HEIC"]


def test_many_skipped_files_are_reported_in_one_short_line(tmp_path):
    touch(tmp_path, *(f"{number:02}.mov" for number in range(30)), "x.cr2")
    words = listing.unread_words(listing.unread_files(tmp_path))
    assert words.startswith("not read: 00.mov, 01.mov") and "09.mov and 20 more (a video" in words and "x.cr2" in words
    assert "10.mov" not in words and listing.unread_words({}) == ""


def test_folder_with_only_subfolders_is_refused_and_names_them(tmp_path):
    (tmp_path / "10_dog").mkdir()
    touch(tmp_path / "10_dog", "a.png")
    with pytest.raises(UserError, match=r"not read: 10_dog/ \(a subfolder with 1 photo\)"):
        listing.find_photos(tmp_path)


def test_folders_of_photos_are_those_of_the_user(tmp_path):
    """Hidden folders, links and our own output are not; nor are those too deep."""
    for name in ("b/a", "b/segmented", ".hidden", "out/masks", "deep/er/and/deeper"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "out" / listing.SEGMENTATION).touch()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    found = [folder.relative_to(tmp_path).as_posix() for folder in listing.folders_below(tmp_path)]
    assert found == [".", "b", "b/a", "deep", "deep/er", "deep/er/and"]
    assert list(listing.folders_below(tmp_path, 0)) == [tmp_path] and not list(listing.folders_below(tmp_path / "out"))
