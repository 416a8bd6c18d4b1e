"""`metrics.jsonl`: lines are appended, damaged ones skipped, and a full disk does not end a training."""

from persam_dreambooth import json_lines
from persam_dreambooth.metrics_file import METRICS_NAME, WARNING, MetricsFile, read_metrics, read_warnings


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


def test_warnings_have_their_step_and_are_no_numbers(tmp_path):
    metrics = MetricsFile(tmp_path, 0)
    metrics.add(2, {"loss": 0.5})
    metrics.add(2, {WARNING: "it leaks"})
    metrics.add(2, {"background": 0.25})
    metrics.add(4, {WARNING: "it leaks more"})
    assert read_warnings(tmp_path) == [(2, "it leaks"), (4, "it leaks more")]
    assert read_metrics(tmp_path) == {2: {"loss": 0.5, "background": 0.25}, 4: {}}
    MetricsFile(tmp_path, 2)  # resumed from this step
    assert read_warnings(tmp_path) == [(2, "it leaks")] and read_warnings(tmp_path / "nowhere") == []
