"""Checkpoints: written whole or not at all, the newest ones kept, found by name, and restored exactly."""

import pytest
import torch
from accelerate import Accelerator

from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import checkpoints
from persam_dreambooth.training.runtime import checkpoint
from persam_dreambooth.training.runtime.checkpoint import Progress
from persam_dreambooth.training.runtime.optimizer import build_average, build_optimizer, build_scheduler
from tests.training.data.test_remarks import new_warnings
from tests.training.small import configure, make, trained_parameters

LORA = {"use_lora": True, "rank": 1}


class Run:
    """A family with optimizer, scheduler and moving average, all registered with an accelerator."""

    def __init__(self, models):
        base, settings = models / "stable-diffusion", {"use_ema": True, "learning_rate": 1e-2, "lr_warmup_steps": 4}
        config = configure(base, LORA, optimization=settings).optimization
        self.accelerator, (_, self.family) = Accelerator(), make(base, LORA)
        self.weights = trained_parameters(self.family)
        optimizer = build_optimizer(self.weights, config, 1)
        scheduler = build_scheduler(optimizer, config, 8, 1)
        self.optimizer, self.scheduler = self.accelerator.prepare(optimizer, scheduler)
        self.average = build_average(self.weights, config)
        checkpoint.register(self.accelerator, self.family, self.average)

    def step(self):
        for weight in self.weights:
            weight.grad = torch.rand_like(weight)
        self.optimizer.step()
        self.scheduler.step()
        self.average.step(self.weights)

    def state(self):
        numbers = [*self.weights, *self.average.shadow_params, self.optimizer.state[self.weights[0]]["exp_avg"]]
        return [number.detach().clone() for number in numbers], self.scheduler.get_last_lr()


def steps_of(output):
    return [path.name.removeprefix("checkpoint-") for path in checkpoints(output)]


def test_everything_is_restored_in_another_run(models, tmp_path):
    run, progress = Run(models), Progress(step=2, epoch=1, batches=5)
    run.step()
    run.step()
    progress.fetch_rng = torch.get_rng_state()
    folder = checkpoint.save_checkpoint(run.accelerator, tmp_path, progress, None)
    assert folder == tmp_path / "checkpoint-2" and (folder / "pytorch_lora_weights.safetensors").exists()
    saved, drawn = run.state(), torch.rand(3)
    other = Run(models)
    other.step()
    found = checkpoint.load_checkpoint(other.accelerator, folder)
    assert torch.equal(torch.rand(3), drawn)
    assert (found.step, found.epoch, found.batches) == (2, 1, 5) and torch.equal(found.fetch_rng, progress.fetch_rng)
    assert all(map(torch.equal, other.state()[0], saved[0])) and other.state()[1] == saved[1]


def test_only_the_newest_are_kept(tmp_path):
    for step in (9, 10, 11):
        checkpoint.save_checkpoint(Accelerator(), tmp_path, Progress(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-11"]
    checkpoint.save_checkpoint(Accelerator(), tmp_path, Progress(12), keep=None)
    assert steps_of(tmp_path) == ["10", "11", "12"]
    checkpoint.save_checkpoint(Accelerator(), tmp_path, Progress(12, batches=3), keep=None)  # again
    assert checkpoint.load_checkpoint(Accelerator(), tmp_path / "checkpoint-12").batches == 3


def test_checkpoint_that_does_not_fit_leaves_the_earlier_ones(tmp_path, file_limit, caplog):
    accelerator = Accelerator()
    checkpoint.save_checkpoint(accelerator, tmp_path, Progress(1), keep=1)
    caplog.clear()
    file_limit(1000)
    assert checkpoint.save_checkpoint(accelerator, tmp_path, Progress(2), keep=1) is None
    (line,) = new_warnings(caplog)
    assert "checkpoint checkpoint-2 could not be written (" in line
    assert f"training continues, the last checkpoint is {tmp_path / 'checkpoint-1'}. Check the free space" in line
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_leftovers_of_a_kill_are_cleared_and_nothing_else(tmp_path):
    for name in (".checkpoint-3.partial", ".checkpoint-1.old", ".unfinished-model", "checkpoint-2", "validation"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.partial").touch()
    checkpoint.clear_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2", "validation", "notes.partial"}


def test_checkpoint_is_chosen_by_name_path_or_as_the_latest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "output"
    assert checkpoint.choose_checkpoint(output, "latest") is None
    assert checkpoint.in_words(output) == "there is no checkpoint yet"
    with pytest.raises(UserError, match=r"no such checkpoint in .*output \(there: none\)"):
        checkpoint.choose_checkpoint(output, "checkpoint-9")
    for step in (9, 10):  # not in the order of their names
        checkpoint.save_checkpoint(Accelerator(), output, Progress(step), keep=None)
    (output / "checkpoint-11").mkdir()  # without progress.json it is no checkpoint
    latest = output / "checkpoint-10"
    for wanted in ("latest", "checkpoint-10", "output/checkpoint-10", str(latest)):
        assert checkpoint.choose_checkpoint(output, wanted) == latest
    assert checkpoint.in_words(output) == f"the last checkpoint is {latest}"
    with pytest.raises(UserError, match=r"holds later checkpoints \(checkpoint-10\), which would count as newer"):
        checkpoint.choose_checkpoint(output, "checkpoint-9")
    with pytest.raises(UserError, match=r"\(there: checkpoint-9, checkpoint-10\); name one of them"):
        checkpoint.choose_checkpoint(output, "checkpoint-11")


def test_run_does_not_resume_beyond_its_end(tmp_path):
    checkpoint.check_step(Progress(5), 5, tmp_path)
    with pytest.raises(UserError, match="was written after step 6, and the run ends after step 5; raise"):
        checkpoint.check_step(Progress(6), 5, tmp_path)


def test_damaged_checkpoint_is_refused_in_one_line(tmp_path):
    folder = checkpoint.save_checkpoint(Accelerator(), tmp_path, Progress(1), keep=None)
    for path in folder.glob("epoch_rng_*"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"cannot resume from .*checkpoint-1 \(epoch_rng_0.*was changed") as refused:
        checkpoint.load_checkpoint(Accelerator(), folder)
    assert "\n" not in str(refused.value)
