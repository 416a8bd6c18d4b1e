"""Words of messages: numbers with their nouns, lists of names, reasons in one line."""

import pytest

from persam_dreambooth.errors import counted, first_line, listed


@pytest.mark.parametrize(("number", "expected"), [(0, "0 photos"), (1, "1 photo"), (2, "2 photos")])
def test_numbers_agree_with_their_nouns(number, expected):
    assert counted(number, "photo") == expected


def test_irregular_plurals_are_given():
    assert (counted(1, "mask is", "masks are"), counted(2, "mask is", "masks are")) == ("1 mask is", "2 masks are")


def test_long_lists_are_cut():
    assert listed(list("abcdefgh"), 5) == "a, b, c, d, e and 3 more"
    assert listed(["a"]) == "a"


def test_reasons_are_one_line_without_the_systems_number(tmp_path):
    with pytest.raises(OSError, match="Errno") as missing:
        (tmp_path / "a.png").read_bytes()
    assert first_line(missing.value) == f"No such file or directory: '{tmp_path}/a.png'"
    assert first_line(OSError("a config\nis missing")) == "a config"
    assert first_line(MemoryError()) == "MemoryError"
