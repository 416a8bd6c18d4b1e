"""Declared flags: bounds and what messages say of them, types and defaults, and the checks of a group."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import Bounds, Flags, flag, flags_of, setting_text

NUMBERS = st.floats(-100, 100) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0])


@dataclass
class Paint(Flags):
    colour: str = flag("", "which colour")
    share: float = flag(0.5, "how much", min=0, max=1)
    seed: int | None = flag(None, "of the draw", min=0, below=2**32, old_names=["random_seed"])
    brushes: list[str] = flag(["flat"], "which brushes")
    more: dict[str, Any] = flag({}, "other settings")
    from_: str | None = flag(None, "where from", spelling="--from", secret=True)


@given(NUMBERS, st.floats(-100, 100), st.floats(0.1, 100))
def test_only_finite_numbers_of_the_range_are_inside(value, least, width):
    closed, open_end, half = Bounds(least, least + width), Bounds(least, below=least + width), Bounds(least)
    assert (value in closed) == (math.isfinite(value) and least <= value <= least + width)
    assert (value in open_end) == (math.isfinite(value) and least <= value < least + width)
    assert (value in half) == (math.isfinite(value) and value >= least)


@pytest.mark.parametrize(
    ("bounds", "shown", "demand"),
    [
        (Bounds(0, 1), "0 to 1", "lie in [0, 1]"),
        (Bounds(0, below=2**32), "at least 0, below 2^32", "lie in [0, 2^32)"),
        (Bounds(-(2**63), below=2**63), "at least -2^63, below 2^63", "lie in [-2^63, 2^63)"),
        (Bounds(2**31 + 1), "at least 2.14748e+09", "be at least 2.14748e+09"),
    ],
)
def test_ranges_are_written_as_people_do(bounds, shown, demand):
    assert (str(bounds), bounds.demand(bounds.min - 1)) == (shown, demand)
    assert Bounds(1).demand(math.inf) == "be finite"


def test_declarations_hold_kind_default_and_names():
    flags = {declared.name: declared for declared in flags_of(Paint)}
    assert list(flags) == ["colour", "share", "seed", "brushes", "more", "from_"]
    seed, origin = flags["seed"], flags["from_"]
    assert (seed.kind, seed.default, seed.old_names, seed.spelling) == (int, None, ("random_seed",), "--seed")
    assert (origin.kind, origin.spelling, origin.bounds, origin.hidden) == (str, "--from", None, False)
    assert flags["brushes"].default == ["flat"] and flags["share"].bounds == Bounds(0, 1)
    Paint().brushes.append("round")
    assert Paint().brushes == ["flat"] and "from_" not in repr(Paint(from_="me"))


def test_first_value_outside_its_bounds_is_named():
    assert Paint(share=1.0, seed=None).seed is None
    with pytest.raises(UserError, match=r"^--share 1.5 must lie in \[0, 1\]$"):
        Paint(share=1.5, seed=-1)
    with pytest.raises(UserError, match=r"^--seed 4294967296 must lie in \[0, 2\^32\)$"):
        Paint(seed=2**32)


def test_missing_flag_is_named_with_its_help():
    Paint(colour="red").require(("colour",))
    with pytest.raises(UserError, match=r"^--colour is missing \(which colour\); see --help$"):
        Paint().require(("seed", "colour"))


def test_values_are_said_in_words():
    assert [setting_text(value) for value in (True, False, None, 0, "off")] == ["on", "off", "unset", "0", "off"]
