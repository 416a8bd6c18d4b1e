"""Flags of `video`: where subjects come from, and the lines about frames in which they were lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persam_dreambooth.cli.video import VideoFlags, lost_lines, ranges
from persam_dreambooth.errors import UserError
from persam_dreambooth.preprocessing.segment_video import Followed


def lost(count, *numbers, flags=()):
    values = {"video": "v", "output": "o", "first_mask": "m"} | dict(flags)
    return lost_lines(Followed(count, list(numbers)), VideoFlags(**values))


def test_lost_frames_are_named_with_helpful_flag():
    assert lost(12, [], []) == []
    assert lost(12, [2, 3, 4, 9], []) == [
        "subject 1 was not found in 4 of 12 frames: 2-4, 9",
        "a lower --lost_below (now 0.7) keeps masks of lower quality, 0 every mask",
    ]
    assert lost(1, [], [0], flags={"lost_below": 0.0}) == ["subject 2 was not found in 1 of 1 frame: 0"]
    assert "and 5 more" in lost(30, list(range(0, 30, 2)))[0]
    by_memory = {"memory": "sam2"}
    assert len(lost(5, [4], flags=by_memory)) == 1
    assert "join" in lost(5, [0], flags=by_memory | {"first_mask": None, "subject": ["s"]})[1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"output": "o"}, "--video is missing"),
        ({"video": "v"}, "--output is missing"),
        ({}, "give --first_mask, or --subject"),
        ({"first_mask": "m", "subject": ["s"]}, "give --first_mask, or --subject"),
        ({"first_mask": "m", "features": "dino"}, "--features and --features_size are those of saved subjects"),
        ({"first_mask": "m", "features_size": 64}, "--features and --features_size are those of saved subjects"),
        ({"subject": ["s"], "method": "seggpt"}, "--method is for --first_mask"),
        ({"first_mask": "m", "memory": "sam2", "method": "seggpt"}, "leave out --method, or --memory"),
        ({"first_mask": "m", "lost_below": -0.1}, "--lost_below -0.1 must be at least 0"),
        ({"first_mask": "m", "memory_frames": -1}, "--memory_frames -1 must be at least 0"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, words):
    both = {} if "video" in flags or "output" in flags else {"video": "v", "output": "o"}
    with pytest.raises(UserError, match=words):
        VideoFlags(**both, **flags)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--memory_frames", "2"], "--memory_frames is read by SegGPT only"),
        (["--seggpt", "model"], "--seggpt is read by SegGPT only"),
        (["--method", "seggpt", "--sam", "x"], "--sam has no effect on --method seggpt"),
        (["--method", "seggpt", "--dtype", "bfloat16"], "--dtype has no effect on --method seggpt"),
        (["--method", "seggpt", "--lost_below", "0.5"], "--lost_below has no effect on SegGPT's subjects; drop it"),
    ],
)
def test_flags_that_the_method_does_not_read_are_refused_before_a_model_is_loaded(argv, words, error_of):
    assert words in error_of("video", "--video", "v", "--output", "o", "--first_mask", "m", *argv)


@settings(max_examples=50)
@given(st.sets(st.integers(0, 9), min_size=1))
def test_ranges_name_each_frame_once(numbers):
    named = set()
    for words in ranges(sorted(numbers)).split(", "):
        start, _, end = words.partition("-")
        assert not end or int(end) > int(start)
        frames = set(range(int(start), int(end or start) + 1))
        assert not named & frames and min(frames) - 1 not in numbers and max(frames) + 1 not in numbers
        named |= frames
    assert named == numbers
