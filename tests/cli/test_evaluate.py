"""The `evaluate` verb: its benchmarks, its help and one-line errors."""

from dataclasses import fields

import pytest

from persam_dreambooth.cli import main
from persam_dreambooth.cli.evaluate import QUESTIONS, READ_BY
from persam_dreambooth.cli.evaluate_flags import EvaluateFlags


def test_help_lists_every_flag_and_every_benchmark(capsys):
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{flag.name}" in text and flag.metadata["help"] for flag in fields(EvaluateFlags))
    assert all(question in text for question in QUESTIONS)


def test_help_of_a_benchmark_has_an_example_of_it(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "davis", "--help"])
    assert "evaluate davis --data data/davis" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ((), "the benchmark is missing; choose one of perseg"),
        (("persog",), "no benchmark 'persog'"),
        (("--data", "x"), "no benchmark '--data'"),
        (("perseg",), "--data is missing"),
        (("perseg", "--data", "x"), "--output is missing"),
        (("perseg", "--data", "x", "--output", "y", "--folds", "a"), "--folds a must be numbers"),
        (("perseg", "--data", "x", "--output", "y", "--episodes", "0"), "--episodes 0 must be at least 1"),
        (("ablate", "--data", "x", "--output", "y", "--tables", "7"), "--tables 7 is unknown"),
        (("perseg", "--data", "x", "--output", "y", "--tables", "4"), "--tables has no effect on perseg"),
        (("davis", "--data", "x", "--output", "y", "--episodes", "2"), "--episodes has no effect on davis"),
        (("ablate", "--data", "x", "--output", "y", "--method", "persam-f"), "--method has no effect on ablate"),
        (("perseg", "--data", "x", "--output", "y", "--method", "insid3", "--sam", "z"), "--sam has no effect on"),
        (("perseg", "--data", "x", "--output", "y"), "x is not laid out as PerSeg"),
        (("davis", "--data", "x", "--output", "y"), "x is not laid out as DAVIS"),
    ],
)
def test_error_is_one_line(error_of, tmp_path, monkeypatch, argv, expected):
    monkeypatch.chdir(tmp_path)
    assert expected in error_of("evaluate", *argv)
    assert not list(tmp_path.iterdir())


def test_benchmark_specific_flags_exist():
    assert set(READ_BY) <= {flag.name for flag in fields(EvaluateFlags)}
    assert {question for readers in READ_BY.values() for question in readers} == set(QUESTIONS)
