"""The lines at the end of a training."""

import pytest

from persam_dreambooth.metrics_file import MetricsFile
from persam_dreambooth.training.summary import ends


@pytest.mark.parametrize(
    ("steps", "seconds", "words"),
    [
        (0, 0.4, "trained 0 steps in 0 s"),
        (1, 59.4, "trained 1 step in 59 s; mean loss 1.0000"),
        (4, 192.0, "trained 4 steps in 3 min 12 s; mean loss 2.5000"),
        (99, 59.9, "trained 99 steps in 1 min 0 s; mean loss 50.0000"),
        (
            120,
            7500.0,
            "trained 120 steps in 2 h 5 min; mean loss 25.5000 in the first 50 steps, 95.5000 in the last 50",
        ),
    ],
)
def test_steps_time_and_loss(tmp_path, steps, seconds, words):
    metrics = MetricsFile(tmp_path, 0)
    for step in range(1, steps + 1):
        metrics.add(step, {"loss": float(step)})
    assert ends(tmp_path, steps, seconds) == [words]
