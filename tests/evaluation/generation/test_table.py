"""The estimates: means over prompts, their intervals, and paired differences."""

import numpy as np
import pytest

from persam_dreambooth.evaluation.generation.table import (
    MEASURES,
    difference,
    differences,
    estimate,
    estimates,
    interval,
    wilson,
)


def test_interval_is_over_prompts_and_deterministic():
    made = estimate([[0.0, 0.0], [1.0], [], [0.0, 0.0, 0.0], [1.0]])
    assert (made.mean, made.prompts, made.values) == (0.5, 4, 7)
    # Of four draws from two zeros and two ones, the mean is binomial: P(0) = P(1) = 1/16 > 2.5 %.
    assert (made.low, made.high) == (0.0, 1.0)
    uneven = [[0.1], [0.7, 0.2], [0.35], [0.9], [0.05]]
    assert estimate(uneven) == estimate(uneven)
    many = estimate([[value] for value in np.linspace(0, 1, 401)])
    assert (many.low, many.high) == pytest.approx(
        (0.5 - 1.96 * 0.2894 / 401**0.5, 0.5 + 1.96 * 0.2894 / 401**0.5), abs=2e-3
    )
    assert estimate([[], []]) is None
    assert (estimate([[3.0, 5.0]]).mean, estimate([[3.0, 5.0]]).low) == (4.0, None)


def test_difference_is_paired_by_prompt():
    hard = [[0.1], [0.5], [0.9], []]
    easier = [[0.3], [0.7], [1.1], [8.0]]
    made = difference(easier, hard)
    assert (made.mean, made.low, made.high) == (pytest.approx(0.2), None, None)
    assert made.prompts == 3
    assert difference([[]], [[1.0]]) is None


def test_numbers_are_formatted_for_display():
    assert interval(MEASURES["dino"], estimate([[0.25], [0.25]])) == "0.250"
    assert interval(MEASURES["scene"], estimate([[0.25], [0.25]])) == "25.0 %"
    assert interval(MEASURES["scene"], estimate([[0.25]])) == "25.0 %"


def test_share_has_wilson_interval():
    assert wilson(10, 10) == pytest.approx((10 / (10 + 1.959964**2), 1))
    assert wilson(0, 10) == pytest.approx((0, 1.959964**2 / (10 + 1.959964**2)))
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, Stat. Med. 17, table I
    every = estimate([[1.0, 1.0]] * 5, share=True)
    assert (every.low, every.high) == wilson(10, 10)
    assert (estimate([[0.0]], share=True).low, estimate([[0.0]], share=True).high) == wilson(0, 1)


def test_estimates_are_in_the_reports_order_and_shares_have_their_own_interval():
    values = {"scene": [[1.0], [1.0]], "dino": [[0.5], [0.7]], "unknown": [[1.0]], "clip_t": [[]]}
    made = estimates(values)
    assert list(made) == ["dino", "scene"]
    assert (made["scene"].low, made["scene"].high) == wilson(2, 2)  # a share; others of one value have no interval
    assert (made["dino"].low, made["dino"].high) == (0.5, 0.7)


def test_differences_are_of_the_measures_that_both_have():
    ours = {"scene": [[1.0], [0.0]], "dino": [[0.5], [0.7]], "clip_t": [[0.1], []]}
    others = {"dino": [[0.25], [0.35]], "clip_t": [[], [0.3]], "masc": [[0.2], [0.2]]}
    made = differences(ours, others)
    assert list(made) == ["dino"]  # without a prompt that has values on both sides there is no difference
    assert made["dino"].mean == pytest.approx(0.3)


def test_interval_is_shown_in_brackets_with_one_unit():
    assert interval(MEASURES["scene"], estimate([[0.0], [1.0]], share=True)) == "50.0 % [0.0, 100.0]"
    assert interval(MEASURES["dino"], estimate([[0.25], [0.75]])) == "0.500 [0.250, 0.750]"
