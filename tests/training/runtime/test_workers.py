"""An error in a data loader worker is reported in one line, and no worker keeps a run from ending."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.runtime import workers
from tests.training.runs import fork


def start_with_worker(flags):
    """Start a long training with a worker, and wait for its first step."""
    flags |= {"max_train_steps": 9999, "checkpointing_steps": 1, "checkpoints_total_limit": 1, "report_to": "none"}
    process = fork(flags | {"dataloader_num_workers": 1}, "--use_lora")
    while process.poll() is None and not list(Path("output").glob("checkpoint-*")):
        time.sleep(0.01)
    return process


def final_error(process):
    """Return the one-line error of a run that ends with exit code 2."""
    printed = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 2 and "Traceback" not in printed, printed
    (line,) = [line for line in printed.splitlines() if "error:" in line]
    return line


def test_photo_damaged_during_training_is_reported_in_one_line(flags):
    process = start_with_worker(flags)
    for photo in Path("photos").iterdir():
        photo.write_bytes(b"x")
    line = final_error(process)
    assert "error: the photo photos/0" in line and line.endswith("export it again or remove it")


def test_killed_worker_is_reported(flags):
    """As when memory runs out; epochs are long enough that a worker is always running."""
    for folder in ("photos", "masks"):
        for copy in range(60):
            shutil.copy(f"{folder}/00.png", f"{folder}/again-{copy}.png")
    process = start_with_worker(flags)
    command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(child) for child in children if Path(f"/proc/{child}/cmdline").read_bytes() == command]
    for worker in workers:  # not the process that tracks shared memory
        os.kill(worker, signal.SIGKILL)
    assert "use fewer --dataloader_num_workers" in final_error(process)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_worker_killed_while_sending_batch_is_reported(error):
    """Raises the error directly: a signal rarely arrives at that moment, though it once did."""

    def batches():
        yield 1
        raise error

    read = workers.watched(batches())
    assert next(read) == 1
    with pytest.raises(
        UserError, match=r"a process that reads photos was killed .* use fewer --dataloader_num_workers"
    ):
        next(read)
