"""A user's YAML file gives values or a one-line error, whatever it contains."""

import os
import time

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.text_files import read_yaml


def test_plain_values_are_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text('rank: 4\nprompts: [a, "b"]\ndeep: {x: {y: [1.5, null, true]}}\n')
    assert read_yaml(path, "config") == {"rank": 4, "prompts": ["a", "b"], "deep": {"x": {"y": [1.5, None, True]}}}
    path.write_text('[{"a": 1}]')
    assert read_yaml(path, "config") == [{"a": 1}]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "an alias bomb": BOMB,
    "a merge of an alias": "a: &a {x: 1}\nb:\n  <<: *a\n",
    "brackets": "rank: " + "[" * 100_000,
    "braces": "rank: " + "{a: " * 100_000,
    "nested lines": "".join(" " * depth + "a:\n" for depth in range(2000)),
    "a tag that would run code": "rank: !!python/object/apply:os.system [echo]",
    "a number of 6000 digits": "rank: " + "9" * 6000,
    "a NUL": "rank: \0",
    "no YAML": "rank: [1, 2\nb: }",
    "too large": "# " + "x" * 5_000_000,
    "a date that is none": "rank: 2026-13-45",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_refused_quickly_in_one_line(text, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(UserError) as refused:
        read_yaml(path, "config")
    assert time.process_time() - began < 5
    assert "\n" not in str(refused.value) and "a.yaml" in str(refused.value)


def _pipe(path):
    os.mkfifo(path)


def _loop(path):
    path.symlink_to(path)


def _bytes(path):
    path.write_bytes(b"\xff\xfe\x00\xd8")


@pytest.mark.parametrize("make", [_pipe, _loop, _bytes, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_files_that_are_not_text_are_refused_without_blocking(make, tmp_path):
    path = tmp_path / "a.yaml"
    make(path)
    with pytest.raises(UserError, match=r"the config .*a\.yaml is not readable YAML"):
        read_yaml(path, "config")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no config at"):
        read_yaml(tmp_path / "a.yaml", "config")
