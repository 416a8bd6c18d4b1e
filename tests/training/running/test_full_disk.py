"""A checkpoint that does not fit on the disk is no end of the run, and nothing of it remains."""

from pathlib import Path

from tests.training.runs import same_weights, train


def test_the_run_goes_on_and_the_last_checkpoint_stays(flags, file_limit, caplog):
    steps = {"checkpointing_steps": 1, "report_to": "none", "rank": 64}
    assert train(flags, "--use_lora", **steps, max_train_steps=3, output_dir="whole") == 0
    assert train(flags, "--use_lora", **steps, max_train_steps=1) == 0
    sizes = {path.name: path.stat().st_size for path in Path("output").rglob("*") if path.is_file()}
    optimizer = sizes.pop("optimizer.bin")
    assert max(sizes.values()) < optimizer  # all else still fits
    file_limit((max(sizes.values()) + optimizer) // 2)
    assert train(flags, "--use_lora", **steps, max_train_steps=3, resume_from_checkpoint="latest") == 0
    assert "checkpoint-2 could not be written" in caplog.text and "checkpoint-3 could not be written" in caplog.text
    assert "the last checkpoint is output/checkpoint-1" in caplog.text
    assert [path.name for path in Path("output").glob("*checkpoint*")] == ["checkpoint-1"]
    assert not list(Path("output").glob(".*"))
    name = "pytorch_lora_weights.safetensors"
    assert same_weights(Path("output") / name, Path("whole") / name)
