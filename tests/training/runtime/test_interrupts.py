"""SIGTERM and SIGINT end a run after its step, with a checkpoint from which it ends as if never stopped."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from persam_dreambooth.training.runtime.interrupts import SAME_SIGNAL, StopSignal
from tests.training.runs import same_weights, train
from tests.training.runtime.test_killed import WEIGHTS, end_when, start

SWITCHES = ("--use_lora", "--random_flip")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_is_resumed(flags, number):
    """The whole process group is signalled, as by a terminal or a job scheduler: a loader's worker is in it."""
    for folder in ("photos", "masks"):  # epochs so long that the worker is at work when the signal comes
        for copy in range(20):
            shutil.copy(f"{folder}/00.png", f"{folder}/again-{copy}.png")
    flags = flags | {"max_train_steps": 400, "checkpointing_steps": 1, "checkpoints_total_limit": 2}
    flags |= {"dataloader_num_workers": 1, "lora_dropout": 0.1, "gradient_accumulation_steps": 2}
    process = start(flags, *SWITCHES, start_new_session=True)
    process.send_signal = lambda number: os.killpg(process.pid, number)
    _, printed = end_when(process, Path("output/checkpoint-1"), number)
    assert process.returncode == 128 + number, printed
    step = max(int(path.name.removeprefix("checkpoint-")) for path in Path("output").glob("checkpoint-*"))
    (line,) = [line for line in printed.splitlines() if "stopped by" in line]
    assert f"stopped by {signal.Signals(number).name} after step {step} of 400" in line
    assert f"the last checkpoint is output/checkpoint-{step}: go on" in line and "Traceback" not in printed
    flags |= {"max_train_steps": step + 2}
    assert train(flags, *SWITCHES, output_dir="whole") == 0
    assert train(flags, *SWITCHES, resume_from_checkpoint="latest") == 0
    assert same_weights(Path("output") / WEIGHTS, Path("whole") / WEIGHTS)


def test_one_of_two_processes_is_told_and_both_stop_after_the_same_step(flags):
    flags |= {"max_train_steps": 400, "checkpointing_steps": 1, "checkpoints_total_limit": 2, "train_batch_size": 1}
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    process = start(flags, *SWITCHES, launcher=torchrun)

    def tell_the_second(number):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[1]), number)

    process.send_signal = tell_the_second
    _, printed = end_when(process, Path("output/checkpoint-1"), signal.SIGTERM)
    (line,) = [line for line in printed.splitlines() if "stopped by SIGTERM" in line]
    last = max(Path("output").glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
    assert (
        f"after step {last.name.removeprefix('checkpoint-')} of 400; the last checkpoint is output/{last.name}" in line
    )
    assert len(list(last.glob("random_states_*"))) == len(list(last.glob("epoch_rng_*"))) == 2


def test_the_same_signal_is_taken_once_and_a_later_one_ends_at_once():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal(speaks=False) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the launcher's copy of it
        assert stop.number == signal.SIGINT
        time.sleep(SAME_SIGNAL * 1.1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGINT) is before


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        with StopSignal(speaks=False) as stop:
            signal.raise_signal(signal.SIGINT)
        assert stop.number is None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_library_user_may_train_in_any_thread(flags):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(train(flags, "--use_lora", max_train_steps=1)))
    thread.start()
    thread.join()
    assert codes == [0] and (Path("output") / WEIGHTS).exists()
