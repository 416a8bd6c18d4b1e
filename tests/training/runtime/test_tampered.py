"""Checkpoints with a missing, truncated or modified file are refused in one line."""

import json
import pickle
import shutil
from itertools import cycle
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.utils import load

from persam_dreambooth.training.runtime.checkpoint_files import check_files
from tests.training.runs import RunsCode, same_weights, train

WEIGHTS = "pytorch_lora_weights.safetensors"
SHORT = {"report_to": "none", "checkpointing_steps": 1, "rank": 1, "train_batch_size": 1}


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def code(path):
    path.write_bytes(pickle.dumps(RunsCode()))


DAMAGES = {
    "missing": Path.unlink,
    "cut": cut,
    "flipped": flip,
    "empty": lambda path: path.write_bytes(b""),
    "code": code,
}


def resume(flags, capsys, **more):
    """Resume a run that must be refused; return its one-line error."""
    capsys.readouterr()
    given = {"max_train_steps": 2, "resume_from_checkpoint": "latest"} | more
    assert train(flags | SHORT, "--use_lora", **given) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    return line


@pytest.fixture
def one_step_run(flags):
    assert train(flags | SHORT, "--use_lora", max_train_steps=1) == 0
    return flags


def test_damage_to_any_file_is_refused(one_step_run, capsys):
    checkpoint = Path("output/checkpoint-1")
    names = sorted(path.name for path in checkpoint.iterdir() if path.name != "progress.json")
    assert {"random_states_0.pkl", "optimizer.bin", "scheduler.bin", "epoch_rng_0.safetensors", WEIGHTS} == set(names)
    shutil.copytree(checkpoint, "kept")
    damages = cycle(DAMAGES)
    for name in names:
        for change in DAMAGES.values():
            change(checkpoint / name)
            with pytest.raises(ValueError, match=name):
                check_files(checkpoint)
            shutil.copy(f"kept/{name}", checkpoint / name)
        DAMAGES[next(damages)](checkpoint / name)
        line = resume(one_step_run, capsys)
        assert "cannot resume from output/checkpoint-1" in line and name in line
        shutil.copy(f"kept/{name}", checkpoint / name)
    (checkpoint / "custom_checkpoint_0.pkl").write_bytes(pickle.dumps(RunsCode()))
    assert "custom_checkpoint_0.pkl" in resume(one_step_run, capsys)
    assert not Path("it-ran").exists()


def test_damaged_random_states_without_digests_are_refused(one_step_run, capsys):
    """Checkpoints of earlier versions have no digests, and Accelerate ignores missing random states."""
    progress = Path("output/checkpoint-1/progress.json")
    values = json.loads(progress.read_text())
    del values["sha256"]
    progress.write_text(json.dumps(values))
    states = progress.with_name("random_states_0.pkl")
    kept = states.read_bytes()
    for damage in ("missing", "cut", "empty", "code"):
        DAMAGES[damage](states)
        assert "cannot resume from" in resume(one_step_run, capsys) and not Path("it-ran").exists()
        states.write_bytes(kept)
    incomplete = {name: value for name, value in load(states).items() if name != "random_state"}
    torch.save(incomplete, states)
    assert "cannot resume from" in resume(one_step_run, capsys)
    states.write_bytes(kept)
    more = {"max_train_steps": 2, "resume_from_checkpoint": "latest"}
    assert train(one_step_run | SHORT, "--use_lora", **more) == 0


def test_impossible_progress_is_refused(one_step_run, capsys):
    progress = Path("output/checkpoint-1/progress.json")
    written = json.loads(progress.read_text())
    for name in ("step", "epoch", "batches"):
        for value in ("x", -5, 1.5, None, True, [1], 10**9):
            progress.write_text(json.dumps(written | {name: value}))
            with pytest.raises(ValueError, match=r"progress\.json"):
                check_files(progress.parent)
    for content in ("", "[]", "{}", "nonsense", "[" * 100_000):
        progress.write_text(content)
        assert "cannot resume from" in resume(one_step_run, capsys)


def test_checkpoint_beyond_last_step_is_refused_and_config_kept(flags, capsys):
    assert train(flags | SHORT, "--use_lora", max_train_steps=2) == 0
    before = Path("output/training_config.yaml").read_bytes()
    line = resume(flags, capsys, max_train_steps=1)
    assert "was written after step 2, and the run ends after step 1" in line
    assert Path("output/training_config.yaml").read_bytes() == before


def test_changed_seed_is_refused(one_step_run, capsys):
    assert "the run had seed 0, not 1" in resume(one_step_run, capsys, seed=1)


NEW_VALUES = {
    "learning_rate": 1e-2,
    "adam_weight_decay": 0.5,
    "adam_beta1": 0.5,
    "adam_beta2": 0.9,
    "adam_epsilon": 1e-3,
}


@pytest.mark.parametrize("flag", NEW_VALUES)
def test_changed_optimizer_setting_is_used(one_step_run, flag):
    """It is in the saved config; without it the same run ends with different weights."""
    more = {"max_train_steps": 2, "resume_from_checkpoint": "latest"}
    shutil.copytree("output", "same")
    assert train(one_step_run | SHORT, "--use_lora", output_dir="same", **more) == 0
    assert train(one_step_run | SHORT, "--use_lora", **more | {flag: NEW_VALUES[flag]}) == 0
    assert not same_weights(f"output/{WEIGHTS}", f"same/{WEIGHTS}")
    assert yaml.safe_load(Path("output/training_config.yaml").read_text())[flag] == NEW_VALUES[flag]


def test_zero_learning_rate_changes_nothing(one_step_run):
    more = {"max_train_steps": 2, "resume_from_checkpoint": "latest", "learning_rate": 0.0}
    assert train(one_step_run | SHORT, "--use_lora", lr_scheduler="cosine", **more) == 0
    assert same_weights(f"output/{WEIGHTS}", f"output/checkpoint-1/{WEIGHTS}", described=False)
