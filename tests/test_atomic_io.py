"""Files and folders are complete or absent, have ordinary permissions, and leftovers of killed writers are removed."""

import os
import stat

import pytest
import torch
from safetensors.torch import save_file

from persam_dreambooth.atomic_io import UNFINISHED, clear_unfinished, replacing, replacing_folder


def test_weights_get_ordinary_permissions(tmp_path):
    before = os.umask(0o022)
    try:
        with replacing(tmp_path / "a.safetensors") as temporary:
            save_file({"a": torch.zeros(1)}, temporary)
        with replacing(tmp_path / "a.json") as temporary:
            temporary.write_text("{}")
    finally:
        os.umask(before)
    for name in ("a.safetensors", "a.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o644


def test_full_disk_is_reported_with_files_own_path(tmp_path, file_limit):
    file_limit(100)
    with pytest.raises(OSError, match=r"a\.txt") as failed, replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("x" * 1000)
    assert UNFINISHED not in str(failed.value) and list(tmp_path.iterdir()) == []


def test_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"photo\.png"), replacing(tmp_path / "a.txt"):
        (tmp_path / "photo.png").read_bytes()


def test_error_without_errno_is_unchanged(tmp_path):
    with pytest.raises(OSError, match=r"^broken data stream$"), replacing(tmp_path / "a.txt"):
        raise OSError("broken data stream")


def test_folder_left_by_killed_call_is_started_from_scratch(tmp_path):
    left = tmp_path / f"{UNFINISHED}there" / "there"
    left.mkdir(parents=True)
    (left / "half.png").write_text("half")
    with replacing_folder(tmp_path / "there") as folder:
        assert list(folder.iterdir()) == []
        (folder / "a").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["a"]


def test_folder_that_another_call_is_writing_is_refused(tmp_path):
    with replacing_folder(tmp_path / "there") as folder:
        with pytest.raises(FileExistsError, match="being written"), replacing_folder(tmp_path / "there"):
            pass
        (folder / "a").write_text("whole")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["a"]


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    for name in (f"{UNFINISHED}x.png", "a.png", ".hidden"):
        (tmp_path / name).write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("")
    (tmp_path / f"{UNFINISHED}link").symlink_to(tmp_path / "elsewhere")
    clear_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a.png", "elsewhere"]
    assert (tmp_path / "elsewhere" / "kept").exists()
