"""Errors of a verb are reported in one line, with terminal control characters escaped."""

import logging
import subprocess
import sys

import pytest

from persam_dreambooth.cli import guarded
from persam_dreambooth.errors import UserError, is_out_of_memory, printable


def outcome(error, capsys):
    def run(_program, _argv):
        raise error

    code = guarded("verb", run, [])
    return code, capsys.readouterr().err


def with_cause(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("could not create a primitive"),
        with_cause(UserError("the photo a.png cannot be decoded; export it again"), MemoryError()),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_is_one_line(error, capsys):
    code, printed = outcome(error, capsys)
    assert code == 2 and printed.count("\n") == 1 and "out of memory" in printed and "decoded" not in printed


def test_other_runtime_errors_are_raised_unchanged(capsys):
    assert not is_out_of_memory(RuntimeError("shapes differ")) and not is_out_of_memory(None)
    with pytest.raises(RuntimeError, match="shapes differ"):
        outcome(RuntimeError("shapes differ"), capsys)


HOSTILE = "a\x1b[31m\x1b]0;title\x07\nb\r\x9b2J\u202egpj.png"


@pytest.mark.parametrize("error", [UserError(f"no photo at {HOSTILE}"), OSError(2, "No such file", HOSTILE)])
def test_control_characters_in_names_are_escaped(error, capsys):
    code, printed = outcome(error, capsys)
    assert code == 2 and printed.endswith("\n") and printed[:-1] == printable(printed[:-1])
    assert "\\x1b[31m" in printed and "\\u202e" in printed


def test_letters_of_all_scripts_are_kept():
    text = "собака 犬 🐕\u200d🦺 é naïve.png"
    assert printable(text) == text


def test_warnings_are_escaped():
    code = (
        "import logging, sys; from persam_dreambooth.cli import guarded\n"
        "guarded('verb', lambda *_: logging.getLogger('x').warning('a\\x1b[2Jb\\nc'), [])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr == "a\\x1b[2Jb\\nc\n"
    assert logging.lastResort is not None
