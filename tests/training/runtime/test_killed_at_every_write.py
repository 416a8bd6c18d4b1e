"""A run killed at any of its file operations and resumed equals an uninterrupted run, bit for bit.

The operations are those that Python reports to audit hooks (files opened for writing, renamed or removed, folders
made or removed); writes inside native libraries fall between two of them.
"""

import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.training.runs import same_weights, train

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHTS = "pytorch_lora_weights.safetensors"
RUN = {
    "report_to": "none",
    "max_train_steps": 2,
    "checkpointing_steps": 1,
    "checkpoints_total_limit": 1,
    "train_batch_size": 1,
    "rank": 1,
    "lora_dropout": 0.1,
}
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def run_in_fork(flags, *switches, kill_at=None, notes=None):
    """Run a training in a forked process; kill it before the given file operation, or record all operations."""
    pid = os.fork()
    if pid == 0:
        operations = []

        def note(event, arguments):
            write = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
            if not (write or event in CHANGES) or "output" not in os.fsdecode(os.fspath(arguments[0])):
                return
            operations.append(f"{event} {os.path.relpath(os.fsdecode(arguments[0]))}")
            if len(operations) - 1 == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(note)
        code = train(flags, "--use_lora", *switches)
        if notes:
            Path(notes).write_text("\n".join(operations))
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_points(operations):
    """Return the numbers of the operations to kill at, without repeats such as creating an existing folder."""
    named = [re.sub(r"unfinished-\w+", "unfinished", operation) for operation in operations]
    return [number for number, operation in enumerate(named) if number == 0 or operation != named[number - 1]]


def test_resume_after_kill_at_every_file_operation(flags):
    flags |= RUN
    assert run_in_fork(flags | {"output_dir": "output-whole"}, notes="notes.txt") == 0
    operations = Path("notes.txt").read_text().splitlines()
    # The hook must see both checkpoints put in place, one deleted, the model and its card.
    for seen in ("checkpoint-2.partial/progress.json", "os.rename output-whole/checkpoint-1", WEIGHTS, ".md"):
        assert any(seen in operation for operation in operations), operations
    before = {path.name for path in Path("output-whole").iterdir()}
    for number in kill_points(operations):
        context = f"{number}: {operations[number]}"
        assert run_in_fork(flags, kill_at=number) == -signal.SIGKILL, context
        assert run_in_fork(flags, "--resume_from_checkpoint=latest") == 0, context
        assert same_weights(f"output/{WEIGHTS}", f"output-whole/{WEIGHTS}"), context
        # A checkpoint beyond the limit is deleted when the next is written, and none is written after the last step.
        assert {path.name for path in Path("output").iterdir()} - {"checkpoint-1"} == before, context
        shutil.rmtree("output")
