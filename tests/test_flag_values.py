"""Values of flags read alike from words, YAML and Python, and the one-line errors about those that do not fit."""

from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.flag_values import (
    as_words,
    build_groups,
    check_drawing,
    did_you_mean,
    read_settings,
    read_value,
    setting,
    shown,
    switch,
    with_new_names,
)
from persam_dreambooth.flags import Flags, flag, flags_of


@dataclass
class Colours(Flags):
    paint: Literal["no", "red", "blue"] = flag("red", "colour")
    coats: int | None = flag(2, "how many", min=1, old_names=["layers"])
    drying: float = flag(0.5, "hours")
    glossy: bool = flag(False, "shine", hidden=True)


@dataclass
class Tools(Flags):
    brushes: list[str] = flag([], "which")
    options: dict[str, Any] = flag({}, "more")


KNOWN = {declared.name: declared for declared in flags_of(Colours, Tools)}


@pytest.mark.parametrize("word", ["yes", "True", "T", "y", "1", "ON"])
def test_switches_are_read_in_every_spelling(word):
    opposite = {"yes": "no", "True": "False", "T": "F", "y": "n", "1": "0", "ON": "OFF"}[word]
    assert switch(word) is True and switch(opposite) is False
    with pytest.raises(ArgumentTypeError, match=f"'{word}!' is neither yes nor no"):
        switch(f"{word}!")


def test_settings_are_python_literals():
    assert setting("betas=0.9,0.99") == ("betas", (0.9, 0.99))
    assert setting("text='a=b'") == ("text", "a=b") and setting("decay=None") == ("decay", None)
    for word in ("betas", "=1", "betas=", "two words=1"):
        with pytest.raises(ArgumentTypeError, match="is not KEY=VALUE"):
            setting(word)
    for word in ("decay=open('x')", "decay=[", "decay=" + "(" * 5000):
        with pytest.raises(ArgumentTypeError, match="the value is not a number"):
            setting(word)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("paint", False, "no"),  # YAML's unquoted no
        ("paint", "blue", "blue"),
        ("coats", 3, 3),
        ("drying", "1e-3", 0.001),
        ("glossy", True, True),
        ("glossy", "off", False),
        ("brushes", ["a", "b"], ["a", "b"]),
        ("brushes", "a", ["a"]),
        ("options", {"decay": 0.1, "nesterov": True}, {"decay": 0.1, "nesterov": True}),
        ("options", ["decay=0.1"], {"decay": 0.1}),
    ],
)
def test_values_are_read_as_the_command_line_reads_their_words(name, value, expected):
    assert read_value(KNOWN[name], value) == expected
    assert type(read_value(KNOWN[name], value)) is type(expected)
    assert all(isinstance(word, str) for word in as_words(KNOWN[name], value))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("coats", 2.5, r"--coats in x.yaml: '2.5' is not a whole number"),
        ("coats", [1, 2], r"coats in x.yaml takes one value, not \[1, 2\]"),
        ("coats", True, "coats in x.yaml is read as true; write it in quotes"),
        ("drying", "long", "--drying in x.yaml: 'long' is not a number"),
        ("paint", True, "--paint in x.yaml: 'yes' is none of no, red, blue"),
        ("brushes", [["a"]], r"brushes in x.yaml takes one value, not \['a'\]"),
        ("brushes", ["a\0"], "brushes in x.yaml holds characters that no command line can hold"),
    ],
)
def test_values_of_the_wrong_kind_are_refused_with_their_origin(name, value, words):
    with pytest.raises(UserError, match=f"^{words}"):
        read_value(KNOWN[name], value, " in x.yaml")


def test_groups_are_built_from_settings_and_those_that_win(tmp_path):
    (tmp_path / "x.yaml").write_text("paint: blue\ncoats: null\nbrushes: [a]\n")
    colours, tools = build_groups([Colours, Tools], read_settings(tmp_path / "x.yaml"), more={"paint": "red"})
    assert (colours, tools) == (Colours("red"), Tools(["a"]))  # null is the default
    assert build_groups([Colours], {"paint": "blue"}, more={"paint": None}) == [Colours("blue")]
    with pytest.raises(UserError, match=r"unknown key 'brush' in x; did you mean brushes\?"):
        build_groups([Colours, Tools], {"brush": "a"}, " in x")
    with pytest.raises(UserError, match=r"^--dry_run in x is not supported: it paints$"):
        build_groups([Colours], {"dry-run": 1}, " in x", refused={"dry_run": "it paints"})
    with pytest.raises(UserError, match="--coats 0 must be at least 1"):
        build_groups([Colours], {"coats": 0})


def test_old_names_give_way_to_new_ones(capsys):
    assert with_new_names({"layers": 1, "paint": "red"}, [Colours], " in x") == {"coats": 1, "paint": "red"}
    assert capsys.readouterr().err.count("warning: --layers in x is called --coats now") == 1
    assert with_new_names({"layers": 1}, [Colours], quiet=True) == {"coats": 1} and not capsys.readouterr().err
    with pytest.raises(UserError, match="layers is the old name of coats, which is given too"):
        with_new_names({"layers": 1, "coats": 2}, [Colours])


def test_hidden_flags_are_not_suggested():
    names = shown(flags_of(Colours))
    assert did_you_mean("dry-ing", names, "--") == "; did you mean --drying?"
    assert did_you_mean("glosy", names) == "; see --help for all of them"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((0, 1, None, None), "--num_images 0 must be at least 1"),
        ((1, 0, None, None), "--num_inference_steps 0 must be at least 1"),
        ((1, 1, 8, None), "belong together"),
        ((1, 1, None, 8), "belong together"),
        ((1, 1, 8, 12), "--height 8 and --width 12 must be multiples of 8"),
        ((1, 1, 0, 8), "must be multiples of 8"),
    ],
)
def test_pictures_of_no_possible_number_or_size_are_refused(given, words):
    check_drawing(1, 1, 8, 16)
    check_drawing(1, 1, None, None)
    with pytest.raises(UserError, match=words):
        check_drawing(*given)
