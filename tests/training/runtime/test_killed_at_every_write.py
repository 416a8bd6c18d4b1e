"""A run that is killed at any of its file operations, and resumed, ends as one that was never stopped, bit for bit.

The operations are those that Python announces to audit hooks (files opened to be written, renamed, removed, folders
made and removed); what libraries write by themselves lies between two of them.
"""

import os
import re
import shutil
import signal
import sys
from pathlib import Path

from tests.training.runs import same_weights, train

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


def in_a_process_of_its_own(flags, *switches, kill_at=None, notes=None):
    """Run a training in a forked process; kill it before its file operation of this number, or count all of them."""
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


def places(operations):
    """The operations to stop at: each but those that only repeat the one before, as making a folder that is there."""
    named = [re.sub(r"unfinished-\w+", "unfinished", operation) for operation in operations]
    return [number for number, operation in enumerate(named) if number == 0 or operation != named[number - 1]]


def test_every_file_operation_of_a_training(flags):
    flags |= RUN
    assert in_a_process_of_its_own(flags | {"output_dir": "output-whole"}, notes="notes.txt") == 0
    operations = Path("notes.txt").read_text().splitlines()
    # Else the hook has not seen what it should: both checkpoints put in place, one deleted, the model, its card.
    for seen in ("checkpoint-2.partial/progress.json", "os.rename output-whole/checkpoint-1", WEIGHTS, ".md"):
        assert any(seen in operation for operation in operations), operations
    before = {path.name for path in Path("output-whole").iterdir()}
    for number in places(operations):
        what = f"{number}: {operations[number]}"
        assert in_a_process_of_its_own(flags, kill_at=number) == -signal.SIGKILL, what
        assert in_a_process_of_its_own(flags, "--resume_from_checkpoint=latest") == 0, what
        assert same_weights(f"output/{WEIGHTS}", f"output-whole/{WEIGHTS}"), what
        # A checkpoint beyond the limit goes when the next one is written, and after the last step none is.
        assert {path.name for path in Path("output").iterdir()} - {"checkpoint-1"} == before, what
        shutil.rmtree("output")
