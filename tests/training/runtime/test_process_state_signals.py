"""Graceful shutdown on SIGTERM and SIGINT: the run ends after its step, with a checkpoint to resume from."""

import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from persam_dreambooth.model_folder import LORA_NAME
from tests.forks import Fork, start_ranks
from tests.kills import signal_when_exists
from tests.training.runs import as_words, run_script, same_weights, train

SWITCHES = ("--use_lora", "--random_flip")


def run_in_own_group(words):
    os.setsid()
    run_script(words)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_run_is_resumed(flags, number):
    """The whole process group is signalled, loader workers included, as by a terminal or a job scheduler."""
    for folder in ("photos", "masks"):  # epochs long enough that the worker is busy when the signal arrives
        for copy in range(20):
            shutil.copy(f"{folder}/00.png", f"{folder}/again-{copy}.png")
    flags = flags | {"max_train_steps": 400, "checkpointing_steps": 1, "checkpoints_total_limit": 2}
    flags |= {"dataloader_num_workers": 1, "lora_dropout": 0.1, "gradient_accumulation_steps": 2}
    process = Fork(run_in_own_group, [*SWITCHES, *as_words(flags)])
    process.send_signal = lambda number: os.killpg(process.pid, number)
    _, printed = signal_when_exists(process, Path("output"), "checkpoint-1", number)
    assert process.returncode == 128 + number, printed
    step = max(int(path.name.removeprefix("checkpoint-")) for path in Path("output").glob("checkpoint-*"))
    (line,) = [line for line in printed.splitlines() if "stopped by" in line]
    assert f"stopped by {signal.Signals(number).name} after step {step} of 400" in line
    assert f"the last checkpoint is output/checkpoint-{step}: resume with" in line and "Traceback" not in printed
    flags |= {"max_train_steps": step + 2}
    assert train(flags, *SWITCHES, output_dir="whole") == 0
    assert train(flags, *SWITCHES, resume_from_checkpoint="latest") == 0
    assert same_weights(Path("output") / LORA_NAME, Path("whole") / LORA_NAME)


def test_signal_to_one_of_two_processes_stops_both_after_same_step(flags):
    flags |= {"max_train_steps": 400, "checkpointing_steps": 1, "checkpoints_total_limit": 2, "train_batch_size": 1}
    first, second = start_ranks(2, run_script, [*SWITCHES, *as_words(flags)])
    _, printed = signal_when_exists(second, Path("output"), "checkpoint-1", signal.SIGTERM)
    printed += first.communicate(timeout=120)[1].decode()
    assert first.returncode == second.returncode == 128 + signal.SIGTERM, printed
    (line,) = [line for line in printed.splitlines() if "stopped by SIGTERM" in line]
    last = max(Path("output").glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
    assert (
        f"after step {last.name.removeprefix('checkpoint-')} of 400; the last checkpoint is output/{last.name}" in line
    )
    assert len(list(last.glob("random_states_*"))) == len(list(last.glob("epoch_rng_*"))) == 2


def test_training_works_in_any_thread(flags):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(train(flags, "--use_lora", max_train_steps=1)))
    thread.start()
    thread.join()
    assert codes == [0] and (Path("output") / LORA_NAME).exists()
