"""Nouns in messages agree with their numbers, and long lists of names are cut."""

import pytest

from persam_dreambooth.errors import counted, listed


@pytest.mark.parametrize(("number", "expected"), [(0, "0 photos"), (1, "1 photo"), (2, "2 photos")])
def test_numbers_agree_with_their_nouns(number, expected):
    assert counted(number, "photo") == expected


def test_irregular_plurals_are_given():
    assert (counted(1, "mask is", "masks are"), counted(2, "mask is", "masks are")) == ("1 mask is", "2 masks are")


def test_long_lists_are_cut():
    assert listed(list("abcdefgh"), 5) == "a, b, c, d, e and 3 more"
    assert listed(["a"]) == "a"
