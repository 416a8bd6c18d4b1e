"""What goes wrong in a worker of the data loader is said in one line, and no worker keeps a run from ending."""

import time
from pathlib import Path

from tests.training.running.test_killed import start


def test_a_photo_that_is_damaged_meanwhile_ends_the_run_in_one_line(flags):
    flags |= {"max_train_steps": 9999, "checkpointing_steps": 1, "checkpoints_total_limit": 1, "report_to": "none"}
    process = start(flags | {"dataloader_num_workers": 1}, "--use_lora")
    while process.poll() is None and not list(Path("output").glob("checkpoint-*")):
        time.sleep(0.01)
    for photo in Path("photos").iterdir():
        photo.write_bytes(b"x")
    try:
        printed = process.communicate(timeout=60)[1].decode()
    finally:
        process.kill()
    assert process.returncode == 2 and "Traceback" not in printed, printed
    (line,) = [one for one in printed.splitlines() if "error:" in one]
    assert "error: the photo photos/0" in line and line.endswith("export it again or remove it")
