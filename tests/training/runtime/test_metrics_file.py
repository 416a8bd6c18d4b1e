"""`metrics.jsonl`: what a run writes during training, and how a resumed run continues the file."""

import json
from pathlib import Path

import pytest

from persam_dreambooth import json_lines
from persam_dreambooth.metrics_file import METRICS_NAME, MetricsFile, read_metrics
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


def test_reader_skips_damaged_lines(tmp_path):
    metrics = MetricsFile(tmp_path, 0)
    metrics.add(1, {"loss": 0.5, "lr": 0.0})
    with (tmp_path / METRICS_NAME).open("ab") as file:
        file.write(
            b'nonsense\n[1]\n{"step": "2", "loss": 1.0}\n{"step": 3, "loss": 0.25, "name": "x"}\n{"step": 4, "lo'
        )
    assert read_metrics(tmp_path) == {1: {"loss": 0.5, "lr": 0.0}, 3: {"loss": 0.25}}
    MetricsFile(tmp_path, 1).add(2, {"loss": 0.125})
    assert read_metrics(tmp_path) == {1: {"loss": 0.5, "lr": 0.0}, 2: {"loss": 0.125}}
    assert read_metrics(tmp_path / "nowhere") == {}


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MetricsFile(None, 0).add(1, {"loss": 0.5})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("process_state")
def test_full_disk_ends_the_lines_with_one_warning(tmp_path, file_limit, caplog):
    metrics = MetricsFile(tmp_path, 0)
    metrics.add(1, {"loss": 0.5})
    size = len(json_lines.encode({"step": 1, "loss": 0.5}))
    file_limit(size + 4)
    for step in (2, 3):
        metrics.add(step, {"loss": 0.5})
    file_limit(2**40)
    assert caplog.text.count("its lines end before step 2") == 1
    assert read_metrics(tmp_path) == {1: {"loss": 0.5}}
