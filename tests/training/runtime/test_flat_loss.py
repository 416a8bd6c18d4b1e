"""The warning of a loss that does not fall: rarely given to a run that learns, given to one that does not."""

import numpy as np
import pytest

from persam_dreambooth.training.runtime.flat_loss import FlatLoss, verdict
from tests.training.runs import train


def run_of(steps, fall, noise, seed):
    """Draw the losses of a run: they fall by a share of their start within the first third; log-normal noise."""
    level = 0.1 * np.where(np.arange(steps) < steps // 3, 1, 1 - fall)
    return level * np.exp(noise * np.random.default_rng(seed).standard_normal(steps))


def warnings_of(losses):
    watch = FlatLoss()
    return [(step, words) for step, loss in enumerate(losses, start=1) if (words := watch.add(float(loss)))]


@pytest.mark.parametrize("noise", [0.1, 0.5, 1.0])
def test_at_most_one_look_in_200_is_wrong_about_a_fall_of_a_tenth(noise):
    wrong = [verdict(run_of(600, 0.1, noise, seed)) is not None for seed in range(400)]
    assert np.mean(wrong) < 0.02
    assert not any(verdict(run_of(600, 0.5, noise, seed)) for seed in range(400))


def test_flat_loss_is_told_once_as_soon_as_it_is_sure():
    told = warnings_of(run_of(1000, 0, 0.1, seed=0))
    assert [step for step, _ in told] == [100]
    assert "less than 10% in 100 steps" in told[0][1] and "raise --learning_rate" in told[0][1]
    later = [warnings_of(run_of(6500, 0, 0.6, seed)) for seed in range(20)]
    assert all(len(told) <= 1 for told in later) and sum(map(len, later)) >= 10
    rising = warnings_of(0.1 * np.linspace(1, 2, 100))
    assert rising[0][0] == 100 and "has risen over the first 100 steps; lower --learning_rate" in rising[0][1]


def test_too_few_steps_and_losses_of_zero_say_nothing():
    assert warnings_of(np.full(99, 0.1)) == [] and verdict([]) is None and verdict([0.1] * 5) is None
    assert verdict([0.0] * 300) is None


def test_run_that_learns_nothing_is_warned_once(flags, caplog):
    still = {"learning_rate": 0.0, "max_train_steps": 101, "report_to": "none", "train_batch_size": 3}
    assert train(flags, "--use_lora", **still) == 0
    assert caplog.text.count("warning: the loss has fallen by less than 10% in 100 steps; if the validation") == 1
