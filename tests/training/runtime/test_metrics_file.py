"""`metrics.jsonl` of runs: the logged losses, also after a run was resumed."""

import json
from pathlib import Path

import pytest

from persam_dreambooth.metrics_file import METRICS_NAME
from tests.parity.diffusers_cases import logged_losses
from tests.training.runs import train


def lines_of(folder):
    return [json.loads(line) for line in (Path(folder) / METRICS_NAME).read_text().splitlines()]


def test_lines_are_the_logged_losses_and_a_resumed_run_has_the_same(flags):
    flags |= {"checkpointing_steps": 2, "report_to": "tensorboard", "lr_scheduler": "linear"}
    assert train(flags, "--use_lora", output_dir="whole") == 0
    whole = lines_of("whole")
    assert [line["step"] for line in whole] == [1, 2, 3, 4]
    assert [line["loss"] for line in whole] == pytest.approx(logged_losses(Path("whole")), rel=1e-6)
    rates = [line["lr"] for line in whole]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 4
    assert train(flags, "--use_lora") == 0
    for later in ("checkpoint-4", "pytorch_lora_weights.safetensors"):
        Path("output", later).rename(f"gone-{later}")
    with Path("output", METRICS_NAME).open("a") as file:
        file.write('{"step": 5, "lo')  # cut off by a kill
    assert train(flags, "--use_lora", resume_from_checkpoint="latest") == 0
    assert lines_of("output") == whole
