"""An error in a data loader worker is reported in one line, and no worker keeps a run from ending."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.runtime import workers
from tests.training.runtime.test_killed import start


def begin(flags):
    """A long training with a worker, when it has taken a step."""
    flags |= {"max_train_steps": 9999, "checkpointing_steps": 1, "checkpoints_total_limit": 1, "report_to": "none"}
    process = start(flags | {"dataloader_num_workers": 1}, "--use_lora")
    while process.poll() is None and not list(Path("output").glob("checkpoint-*")):
        time.sleep(0.01)
    return process


def said_at_the_end(process):
    """The one line of a run that ends in exit code 2."""
    try:
        printed = process.communicate(timeout=60)[1].decode()
    finally:
        process.kill()
    assert process.returncode == 2 and "Traceback" not in printed, printed
    (line,) = [line for line in printed.splitlines() if "error:" in line]
    return line


def test_a_photo_that_is_damaged_meanwhile_ends_the_run_in_one_line(flags):
    process = begin(flags)
    for photo in Path("photos").iterdir():
        photo.write_bytes(b"x")
    line = said_at_the_end(process)
    assert "error: the photo photos/0" in line and line.endswith("export it again or remove it")


def test_a_worker_that_the_system_ends_is_told_of(flags):
    """As it does where memory is short; epochs so long that there is a worker at any time."""
    for folder in ("photos", "masks"):
        for copy in range(60):
            shutil.copy(f"{folder}/00.png", f"{folder}/again-{copy}.png")
    process = begin(flags)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        if b"train_dreambooth" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(int(child), signal.SIGKILL)
    assert "use fewer --dataloader_num_workers" in said_at_the_end(process)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_that_is_ended_while_it_hands_over_a_batch_is_told_of(error):
    """The moment is too short to be hit by a signal each time: it was, once, with this error."""

    def batches():
        yield 1
        raise error

    read = workers.watched(batches())
    assert next(read) == 1
    with pytest.raises(
        UserError, match=r"a process that reads photos was killed .* use fewer --dataloader_num_workers"
    ):
        next(read)
