"""A run killed at any moment and resumed equals an uninterrupted run, bit for bit."""

import signal
from pathlib import Path

from persam_dreambooth.model_folder import LORA_NAME
from persam_dreambooth.training.runtime.checkpoint_files import read_progress
from tests.kills import signal_when_exists
from tests.training.runs import fork, same_weights, train

FLAGS = {  # 3 photos, one per batch, two batches per step: the second step of an epoch has only one batch
    "max_train_steps": 5,
    "checkpointing_steps": 2,
    "train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "lora_dropout": 0.1,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 2,
    "snr_gamma": 5.0,
    "class_prompt": "a dog",
    "class_data_dir": "class",
    "num_class_images": 2,
    "background_prior_weight": 0.5,
}
SWITCHES = ("--use_lora", "--train_text_encoder", "--with_prior_preservation", "--random_flip", "--offset_noise")


# While the config is written, in the middle of a checkpoint, and some steps after one.
MOMENTS = ("training_config.yaml", ".checkpoint-2.partial/optimizer.bin", "checkpoint-4")


def test_run_killed_three_times_is_resumed(flags, capsys):
    flags, output = flags | FLAGS, Path("output")
    assert train(flags, *SWITCHES, output_dir="whole") == 0
    resumed = flags
    for moment in MOMENTS:
        signal_when_exists(fork(resumed, *SWITCHES), output, moment, signal.SIGKILL)
        assert not (output / LORA_NAME).exists()
        assert any(output.glob("checkpoint-*")) == (moment == "checkpoint-4")
        resumed = flags | {"resume_from_checkpoint": "latest"}
    capsys.readouterr()
    assert train(resumed, *SWITCHES) == 0
    assert "resumed from output/checkpoint-4" in capsys.readouterr().out
    assert same_weights(output / LORA_NAME, Path("whole") / LORA_NAME)
    for name in ("optimizer.bin", "scheduler.bin"):
        expected, resumed = (Path(folder) / "checkpoint-4" / name for folder in ("whole", "output"))
        assert expected.read_bytes() == resumed.read_bytes(), name
    # Digests may differ: safetensors writes metadata in any order.
    expected, resumed = (
        {**read_progress(Path(folder, "checkpoint-4")), "sha256": None} for folder in ("whole", "output")
    )
    assert expected == resumed
    assert not list(output.glob(".*"))  # leftovers of the kill are removed


def test_latest_restarts_only_with_same_flags(flags, capsys):
    assert train(flags, "--use_lora", resume_from_checkpoint="latest", max_train_steps=1) == 0
    assert "the run starts from the beginning" in capsys.readouterr().out
    assert train(flags, "--use_lora", resume_from_checkpoint="latest", max_train_steps=1) == 2
    assert "holds a finished model" in capsys.readouterr().err
    assert train(flags, "--use_lora", max_train_steps=1) == 2
    assert "choose another folder\n" in capsys.readouterr().err
    (Path("output") / LORA_NAME).unlink()  # as if killed before saving it
    assert train(flags, "--use_lora", resume_from_checkpoint="latest", max_train_steps=1, learning_rate=1e-4) == 2
    assert "the run had learning_rate 0.001, not 0.0001" in capsys.readouterr().err
    assert train(flags, "--use_lora", resume_from_checkpoint="latest", max_train_steps=1, report_to="none") == 0
