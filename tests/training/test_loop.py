"""The loop: which batches make a step, what callbacks and signals end, and weights that are never saved."""

import signal

import pytest
import torch
from accelerate import Accelerator

from persam_dreambooth.errors import Stopped, UserError
from persam_dreambooth.metrics_file import MetricsFile
from persam_dreambooth.model_folder import checkpoints
from persam_dreambooth.training.loop import Training, TrainingCallbacks, fit
from persam_dreambooth.training.runtime.checkpoint import Progress
from persam_dreambooth.training.runtime.flat_loss import FlatLoss
from persam_dreambooth.training.runtime.optimizer import build_optimizer, build_scheduler
from persam_dreambooth.training.runtime.process_state import StopSignal
from tests.training.small import batch_for, configure, make, trained_parameters

LORA = {"use_lora": True, "rank": 1}


def prepared(models, folder, callbacks, steps, accumulation=1, rate=5e-6, **output):
    """A training on epochs of three batches, as `main` prepares it; its loader is a plain list."""
    base, optimization = models / "stable-diffusion", {"learning_rate": rate}
    optimization |= {"gradient_accumulation_steps": accumulation}
    _, family = make(base, LORA)
    config = configure(base, LORA, optimization=optimization, output={"output_dir": str(folder)} | output)
    accelerator = Accelerator(gradient_accumulation_steps=accumulation)
    parameters = trained_parameters(family)
    optimizer = build_optimizer(parameters, config.optimization, 2)
    scheduler = build_scheduler(optimizer, config.optimization, steps, 1)
    optimizer, scheduler = accelerator.prepare(optimizer, scheduler)
    return Training(
        config=config,
        accelerator=accelerator,
        family=family,
        loader=[batch_for(family, False)] * 3,
        optimizer=optimizer,
        scheduler=scheduler,
        parameters=parameters,
        steps=steps,
        drawn_every=100,
        stream=None,
        average=None,
        metrics=MetricsFile(folder, 0),
        flat=FlatLoss(),
        callbacks=callbacks,
        likeness=None,
    )


def test_steps_are_counted_over_epochs_and_accumulated_batches(models, tmp_path):
    seen, progress = [], Progress()
    callbacks = TrainingCallbacks(on_step=lambda step, losses: seen.append((step, losses["loss"])))
    run = prepared(models, tmp_path, callbacks, steps=2, accumulation=2)
    before = [weight.detach().clone() for weight in run.parameters]
    losses = fit(run, progress, StopSignal())
    assert [step for step, _ in seen] == [1, 2] and losses["loss"] == seen[-1][1]
    assert (progress.step, progress.epoch, progress.batches) == (2, 1, 1)  # 4 batches, 3 in an epoch
    assert any(not torch.equal(weight, old) for weight, old in zip(run.parameters, before, strict=True))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert fit(run, progress, StopSignal()) == {} and len(seen) == 2  # no step is left


def test_step_is_taken_with_the_mean_of_its_batches(models, tmp_path):
    seen = []
    callbacks = TrainingCallbacks(on_step=lambda _, losses: seen.append(losses))
    run = prepared(models, tmp_path, callbacks, steps=1, accumulation=2)
    torch.manual_seed(0)
    fit(run, Progress(), StopSignal())
    alone = prepared(models, tmp_path / "alone", callbacks, steps=2, rate=0.0)
    torch.manual_seed(0)
    fit(alone, Progress(), StopSignal())
    assert seen[0]["loss"] == pytest.approx(sum(losses["loss"] for losses in seen[1:]) / 2, rel=1e-5)


def test_signal_ends_the_run_after_the_next_step_with_a_checkpoint(models, tmp_path):
    def interrupt(step, _losses):
        if step == 1:
            signal.raise_signal(signal.SIGTERM)

    progress = Progress()
    with (
        StopSignal(speaks=True) as stop,
        pytest.raises(Stopped, match="stopped by SIGTERM after step 2 of 5") as ended,
    ):
        fit(prepared(models, tmp_path, TrainingCallbacks(on_step=interrupt), steps=5), progress, stop)
    assert progress.step == 2 and [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2"]
    assert f"the last checkpoint is {tmp_path / 'checkpoint-2'}: resume" in str(ended.value)


def test_checkpoints_are_written_when_due_and_the_callbacks_error_ends_the_run(models, tmp_path):
    written = []

    def fail(folder):
        written.append(folder.name)
        if len(written) == 2:
            raise InterruptedError

    run = prepared(models, tmp_path, TrainingCallbacks(on_checkpoint=fail), 9, checkpointing_steps=2)
    with pytest.raises(InterruptedError) as raised:
        fit(run, Progress(), StopSignal())
    assert written == ["checkpoint-2", "checkpoint-4"]  # after an error no callback is called
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]
    assert "ended after step 5 of 9" in raised.value.__notes__[0]


def test_broken_weights_are_neither_kept_nor_saved(models, tmp_path):
    def break_one(step, _losses):
        with torch.no_grad():
            run.parameters[0].fill_(torch.inf)

    run = prepared(models, tmp_path, TrainingCallbacks(on_step=break_one), 1, checkpointing_steps=1)
    with pytest.raises(UserError, match="the weights are no longer finite after step 1; there is no checkpoint yet"):
        fit(run, Progress(), StopSignal())
    assert not list(tmp_path.glob("checkpoint-*"))
