"""Untrusted index files: which one is meant, what it holds, and files that it may name."""

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.formats.index_files import index_file, listed_file, read_json, read_json_lines


def test_index_is_found_from_either_folder_or_as_the_file_itself(tmp_path):
    name, path = "train/metadata.jsonl", tmp_path / "train" / "metadata.jsonl"
    path.parent.mkdir()
    path.touch()
    for given in (tmp_path, tmp_path / "train", path):
        assert index_file(given, name) == path
    path.rename(path.with_suffix(".csv"))
    with pytest.raises(UserError, match=r"has a metadata\.csv, which is not read here; write it as metadata\.jsonl"):
        index_file(tmp_path, name)
    path.with_suffix(".csv").unlink()
    path.mkdir()  # a folder of that name
    with pytest.raises(UserError, match=r"has no metadata\.jsonl; give the folder that holds it"):
        index_file(tmp_path, name)


def test_values_of_any_type_are_read_and_damage_is_named(tmp_path):
    path = tmp_path / "a.json"
    for content, value in ((b"[1]", [1]), (b'\xef\xbb\xbf"H\xc3\xbcndin"', "Hündin"), (b"null", None)):
        path.write_bytes(content)
        assert read_json(path, "COCO file") == value
    for content, words in (
        (b"{", r"is not a COCO file \(.*column 2.*\); export it again"),
        (b'"H\xfcndin"', "write it as UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"", "export it again"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=words) as error:
            read_json(path, "COCO file")
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_lines_have_their_numbers_and_empty_ones_are_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": "\xe2\x80\xa8"}\n\n  \n3\r\n')  # no other separator ends a line
    assert list(read_json_lines(path)) == [(1, {"a": "\u2028"}), (4, 3)]
    path.write_bytes(b"1\n\n{")
    lines = read_json_lines(path)
    assert next(lines) == (1, 1)
    with pytest.raises(UserError, match=r"a\.jsonl is not a JSON Lines file \(line 3: (?!.*line 1 )"):
        next(lines)


def test_named_files_lie_in_the_folders_that_were_given(tmp_path):
    folder, others = tmp_path / "theirs", tmp_path / "others"
    for path in (folder / "images" / "a.png", others / "b.png", tmp_path / "theirs-not" / "c.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "link").symlink_to(tmp_path / "theirs-not")
    assert listed_file("images/../images/a.png", folder) == folder / "images" / "a.png"
    assert listed_file(str(folder / "images" / "a.png"), folder) == folder / "images" / "a.png"
    assert listed_file("link/c.png", folder) == folder / "link" / "c.png"  # links are the user's own
    assert listed_file("../others/b.png", folder, None, others) == others / "b.png"
    for name in ("../others/b.png", str(others / "b.png"), "../theirs-not/c.png", "link/../../others/b.png"):
        with pytest.raises(UserError, match=r"lies outside .*theirs; give its folder as --images or --masks"):
            listed_file(name, folder)


@pytest.mark.parametrize("name", ["b.png", "images", "", "a\0.png"])
def test_named_files_that_do_not_exist_are_refused(name, tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="does not exist; correct its path"):
        listed_file(name, tmp_path)


def test_endless_names_are_cut_in_messages(tmp_path):
    for name in ("a" * 5000, "../" + "a" * 5000):
        with pytest.raises(UserError) as error:
            listed_file(name, tmp_path)
        assert len(str(error.value)) < 600 + len(str(tmp_path))
