"""Errors of a verb are reported in one line, with terminal control characters escaped."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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
    assert "\\x1b[31m" in printed and "\\u202e" in printed and "Errno" not in printed


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


def test_imports_print_nothing(tmp_path):
    """diffusers, and torch below it, warn when torchao is installed in another version than they know."""
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q.lora"
    save_file({f"{layer}.{end}.weight": torch.ones(4, 4) for end in ("down", "up")}, tmp_path / "lora.safetensors")
    code = "import persam_dreambooth as pd; pd.train; print(pd.convert_lora('lora.safetensors', 'dog.safetensors'))"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0 and "dog.safetensors" in run.stdout and run.stderr == ""


@pytest.mark.parametrize(("text", "shown"), [("<enum 'KernelPreference'> is", False), ("<enum 'Mine'> is", True)])
def test_warnings_about_enums_are_silenced_for_torchao_only(text, shown):
    record = logging.makeLogRecord({"msg": "%s an Enum subclass", "args": (text,)})
    assert bool(logging.getLogger("torch.utils._pytree").filter(record)) == shown
