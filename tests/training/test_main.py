"""`train` called from Python: several times in a process, in a thread, with callbacks, and what it returns."""

import json
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

import persam_dreambooth as pd
from persam_dreambooth.cli.train import say_where
from tests.parity.diffusers_cases import logged_losses
from tests.training.runs import fork, same_weights

WEIGHTS = "pytorch_lora_weights.safetensors"
OTHERS = {
    "first": {},
    "bf16": {"mixed_precision": "bf16", "max_train_steps": 2},
    "accumulated": {"mixed_precision": "no", "gradient_accumulation_steps": 3, "max_train_steps": 2},
}


@pytest.fixture
def settings(flags):
    return flags | {"use_lora": True, "random_flip": True, "report_to": "none"}


def test_every_run_of_a_process_ends_as_in_a_process_of_its_own(settings):
    """Bit for bit, each with another precision or accumulation than the one before."""
    own = {name: fork(settings | more | {"output_dir": f"own-{name}"}) for name, more in OTHERS.items()}
    for name, more in OTHERS.items():
        pd.train(pd.TrainingConfig(**settings | more | {"output_dir": name}))
    for name, process in own.items():
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()
        assert same_weights(Path(name) / WEIGHTS, Path(f"own-{name}") / WEIGHTS), name


def test_what_the_caller_has_of_accelerate_stays(settings):
    Accelerator(mixed_precision="bf16", gradient_accumulation_steps=7)
    pd.train(pd.TrainingConfig(**settings | {"mixed_precision": "no", "max_train_steps": 1}))
    assert AcceleratorState().mixed_precision == "bf16" and GradientState().num_steps == 7


def test_tf32_of_the_caller_is_neither_used_nor_lost(settings):
    seen = []
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        callbacks = pd.TrainingCallbacks(on_step=lambda *_: seen.append(torch.backends.cuda.matmul.allow_tf32))
        pd.train(pd.TrainingConfig(**settings | {"max_train_steps": 1}), callbacks=callbacks)
        assert seen == [False] and torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("name", ["v1.json", "v2.yaml"])
def test_output_folder_may_be_named_like_a_file(settings, name):
    result = pd.train(pd.TrainingConfig(**settings | {"max_train_steps": 1, "output_dir": name}))
    assert pd.TrainingConfig.load(result.output_dir).flat()["max_train_steps"] == 1


def test_model_is_saved_although_its_folder_was_deleted(settings):
    callbacks = pd.TrainingCallbacks(on_step=lambda *_: shutil.rmtree("output"))
    result = pd.train(pd.TrainingConfig(**settings | {"max_train_steps": 1}), callbacks=callbacks)
    assert result.model == [Path("output") / WEIGHTS] and result.model[0].exists()
    assert pd.TrainingConfig.load("output").flat()["max_train_steps"] == 1


def test_run_that_ended_before_its_pictures_draws_them_when_it_resumes(settings):
    more = {"validation_prompt": "a sks dog", "num_validation_images": 2, "validation_steps": 2}

    def stop(step, losses):
        if step == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        pd.train(pd.TrainingConfig(**settings | more), callbacks=pd.TrainingCallbacks(on_step=stop))
    assert not Path("output/validation").exists()
    for again, steps in (("output", [2, 4]), ("copy", [4])):  # the copy has the pictures of the second step
        drawn = []
        config = pd.TrainingConfig(**settings | more | {"resume_from_checkpoint": "latest", "output_dir": again})
        pd.train(config, callbacks=pd.TrainingCallbacks(on_validation=drawn.extend))
        names = [f"step-00000{step}-{seed}.png" for step in steps for seed in (0, 1)]
        assert drawn == [Path(again, "validation", name) for name in names]
        shutil.copytree("output", "copy", dirs_exist_ok=True)


def test_the_result_and_the_callbacks_say_what_was_done(settings):
    steps, checkpoints, drawn = {}, [], []
    more = {"report_to": "tensorboard", "checkpointing_steps": 2, "validation_steps": 3}
    more |= {"validation_prompt": "a sks dog", "num_validation_images": 1}
    result = pd.train(
        pd.TrainingConfig(**settings | more),
        callbacks=pd.TrainingCallbacks(
            on_step=lambda step, losses: steps.update({step: dict(losses)}),
            on_checkpoint=checkpoints.append,
            on_validation=lambda paths: drawn.append(list(paths)),
        ),
    )
    assert list(steps) == [1, 2, 3, 4] and set(steps[4]) == {"loss", "instance_loss"}
    assert [losses["loss"] for losses in steps.values()] == pytest.approx(logged_losses(Path("output")))
    assert checkpoints == [Path("output/checkpoint-2"), Path("output/checkpoint-4")] == result.checkpoints
    assert drawn == [[Path("output/validation/step-000003-0.png")], [Path("output/validation/step-000004-0.png")]]
    assert (result.output_dir, result.steps, result.losses) == (Path("output"), 4, steps[4])
    assert result.model == [Path("output") / WEIGHTS] and result.validation_images == drawn[-1]
    assert all(path.exists() for path in (*result.model, *checkpoints, *drawn[0], *drawn[1]))


class Enough(Exception):
    pass


def stop_at(step):
    def on_step(number, _losses):
        if number == step:
            raise Enough

    return pd.TrainingCallbacks(on_step=on_step)


def raising(*_):
    raise Enough


@pytest.mark.parametrize(
    "callbacks, last",
    [
        (stop_at(2), "checkpoint-2"),
        (pd.TrainingCallbacks(on_validation=raising), "checkpoint-3"),  # drawn after step 2
        (pd.TrainingCallbacks(on_checkpoint=raising), "checkpoint-4"),  # written after step 3
    ],
    ids=["on_step", "on_validation", "on_checkpoint"],
)
def test_what_a_callback_raises_ends_the_run_and_it_can_be_resumed(settings, callbacks, last):
    more = {"max_train_steps": 5, "checkpointing_steps": 3, "validation_steps": 2}
    if callbacks.on_validation is raising:
        more |= {"validation_prompt": "a sks dog", "num_validation_images": 1}
    with pytest.raises(Enough) as raised:
        pd.train(pd.TrainingConfig(**settings | more), callbacks=callbacks)
    assert last in raised.value.__notes__[0] and "resume_from_checkpoint" in raised.value.__notes__[0]
    assert max(path.name for path in Path("output").glob("checkpoint-*")) == last
    assert not (Path("output") / WEIGHTS).exists()
    pd.train(pd.TrainingConfig(**settings | more | {"resume_from_checkpoint": "latest"}))
    pd.train(pd.TrainingConfig(**settings | more | {"output_dir": "whole"}))
    assert same_weights(Path("output") / WEIGHTS, Path("whole") / WEIGHTS)


def test_what_a_callback_raises_in_the_last_step_comes_after_the_model(settings):
    with pytest.raises(Enough) as raised:
        pd.train(pd.TrainingConfig(**settings), callbacks=stop_at(4))
    assert (Path("output") / WEIGHTS).exists() and "its model is in output" in raised.value.__notes__[0]


def test_signals_are_taken_in_the_main_thread_only_and_given_back(settings):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    during = {}

    def run(name):
        config = pd.TrainingConfig(**settings | {"max_train_steps": 1, "output_dir": name})
        seen = lambda *_: during.update({name: (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))})  # noqa: E731
        pd.train(config, callbacks=pd.TrainingCallbacks(on_step=seen))

    run("main")
    thread = threading.Thread(target=run, args=["thread"])
    thread.start()
    thread.join()
    assert during["thread"] == before and not set(during["main"]) & set(before)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert same_weights(Path("thread") / WEIGHTS, Path("main") / WEIGHTS)


def test_a_second_training_at_the_same_time_is_refused(settings):
    refused = []

    def train_too(*_):
        with pytest.raises(pd.UserError, match="another training is running") as error:
            pd.train(pd.TrainingConfig(**settings | {"output_dir": "other"}))
        refused.append(error)

    result = pd.train(pd.TrainingConfig(**settings), callbacks=pd.TrainingCallbacks(on_step=train_too))
    assert len(refused) == result.steps == 4 and not Path("other").exists()


def test_command_to_try_needs_no_file_that_was_trained_from(settings, capsys):
    """The subjects' file may be changed or removed during a training."""
    concept = {"instance_prompt": "a zwx cat", "instance_data_dir": "photos", "instance_mask_dir": "masks"}
    Path("concepts.json").write_text(json.dumps([concept]))
    own = dict.fromkeys(("instance_prompt", "instance_data_dir", "instance_mask_dir"))
    config = pd.TrainingConfig(**settings | own | {"concepts_list": "concepts.json", "max_train_steps": 1})
    removing = pd.TrainingCallbacks(on_step=lambda *_: Path("concepts.json").unlink())
    result = pd.train(config, callbacks=removing)
    say_where(config, result)
    assert result.prompt == "a zwx cat" and "--prompt 'a zwx cat in the jungle'" in capsys.readouterr().out
