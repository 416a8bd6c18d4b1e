"""A checkpoint is resumed as it was written, or refused in one line: every file of it missing, cut or changed."""

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
from tests.training.runs import same_weights, train

WEIGHTS = "pytorch_lora_weights.safetensors"
SHORT = {"report_to": "none", "checkpointing_steps": 1, "rank": 1, "train_batch_size": 1}


class Evil:
    def __reduce__(self):
        return (Path("it-ran").touch, ())


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def code(path):
    path.write_bytes(pickle.dumps(Evil()))


WAYS = {"missing": Path.unlink, "cut": cut, "flipped": flip, "empty": lambda path: path.write_bytes(b""), "code": code}


def resume(flags, capsys, **more):
    """The one line that refuses to resume."""
    capsys.readouterr()
    given = {"max_train_steps": 2, "resume_from_checkpoint": "latest"} | more
    assert train(flags | SHORT, "--use_lora", **given) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    return line


@pytest.fixture
def begun(flags):
    assert train(flags | SHORT, "--use_lora", max_train_steps=1) == 0
    return flags


def test_every_file_that_is_not_as_it_was_written_is_refused(begun, capsys):
    checkpoint = Path("output/checkpoint-1")
    names = sorted(path.name for path in checkpoint.iterdir() if path.name != "progress.json")
    assert {"random_states_0.pkl", "optimizer.bin", "scheduler.bin", "epoch_rng_0.safetensors", WEIGHTS} == set(names)
    shutil.copytree(checkpoint, "kept")
    turns = cycle(WAYS)
    for name in names:
        for change in WAYS.values():
            change(checkpoint / name)
            with pytest.raises(ValueError, match=name):
                check_files(checkpoint)
            shutil.copy(f"kept/{name}", checkpoint / name)
        WAYS[next(turns)](checkpoint / name)
        line = resume(begun, capsys)
        assert "cannot resume from output/checkpoint-1" in line and name in line
        shutil.copy(f"kept/{name}", checkpoint / name)
    (checkpoint / "custom_checkpoint_0.pkl").write_bytes(pickle.dumps(Evil()))
    assert "custom_checkpoint_0.pkl" in resume(begun, capsys)
    assert not Path("it-ran").exists()


def test_random_states_without_digests_are_refused_too(begun, capsys):
    """Checkpoints of earlier versions have no digests, and Accelerate goes on without random states."""
    progress = Path("output/checkpoint-1/progress.json")
    values = json.loads(progress.read_text())
    del values["sha256"]
    progress.write_text(json.dumps(values))
    states = progress.with_name("random_states_0.pkl")
    kept = states.read_bytes()
    for way in ("missing", "cut", "empty", "code"):
        WAYS[way](states)
        assert "cannot resume from" in resume(begun, capsys) and not Path("it-ran").exists()
        states.write_bytes(kept)
    foreign = {name: value for name, value in load(states).items() if name != "random_state"}
    torch.save(foreign, states)
    assert "cannot resume from" in resume(begun, capsys)
    states.write_bytes(kept)
    more = {"max_train_steps": 2, "resume_from_checkpoint": "latest"}
    assert train(begun | SHORT, "--use_lora", **more) == 0


def test_counts_that_no_run_has_are_refused(begun, capsys):
    progress = Path("output/checkpoint-1/progress.json")
    written = json.loads(progress.read_text())
    for name in ("step", "epoch", "batches"):
        for value in ("x", -5, 1.5, None, True, [1], 10**9):
            progress.write_text(json.dumps(written | {name: value}))
            with pytest.raises(ValueError, match=r"progress\.json"):
                check_files(progress.parent)
    for content in ("", "[]", "{}", "nonsense", "[" * 100_000):
        progress.write_text(content)
        assert "cannot resume from" in resume(begun, capsys)


def test_a_checkpoint_beyond_the_end_is_refused_and_the_config_stays(flags, capsys):
    assert train(flags | SHORT, "--use_lora", max_train_steps=2) == 0
    before = Path("output/training_config.yaml").read_bytes()
    line = resume(flags, capsys, max_train_steps=1)
    assert "was written after step 2, and the run ends after step 1" in line
    assert Path("output/training_config.yaml").read_bytes() == before


def test_another_seed_is_refused(begun, capsys):
    assert "the run had seed 0, not 1" in resume(begun, capsys, seed=1)


OTHERS = {"learning_rate": 1e-2, "adam_weight_decay": 0.5, "adam_beta1": 0.5, "adam_beta2": 0.9, "adam_epsilon": 1e-3}


@pytest.mark.parametrize("flag", OTHERS)
def test_another_rate_is_taken(begun, flag):
    """And is what the saved config names; the same run without it ends in other weights."""
    more = {"max_train_steps": 2, "resume_from_checkpoint": "latest"}
    shutil.copytree("output", "same")
    assert train(begun | SHORT, "--use_lora", output_dir="same", **more) == 0
    assert train(begun | SHORT, "--use_lora", **more | {flag: OTHERS[flag]}) == 0
    assert not same_weights(f"output/{WEIGHTS}", f"same/{WEIGHTS}")
    assert yaml.safe_load(Path("output/training_config.yaml").read_text())[flag] == OTHERS[flag]


def test_a_rate_of_zero_changes_nothing_any_more(begun):
    more = {"max_train_steps": 2, "resume_from_checkpoint": "latest", "learning_rate": 0.0}
    assert train(begun | SHORT, "--use_lora", lr_scheduler="cosine", **more) == 0
    assert same_weights(f"output/{WEIGHTS}", f"output/checkpoint-1/{WEIGHTS}")
