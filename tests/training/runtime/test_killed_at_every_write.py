"""A run killed at any of its file operations and resumed equals an uninterrupted run, bit for bit."""

from pathlib import Path

from persam_dreambooth.model_folder import LORA_NAME
from tests.kills import put_back, states_of_kills
from tests.training.runs import same_weights, train

RUN = {
    "report_to": "none",
    "max_train_steps": 2,
    "checkpointing_steps": 1,
    "checkpoints_total_limit": 1,
    "train_batch_size": 1,
    "rank": 1,
    "lora_dropout": 0.1,
}


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_resume_after_kill_at_every_file_operation(flags):
    flags |= RUN
    output = Path("output")
    *states, whole = states_of_kills(lambda: train(flags, "--use_lora"), output, Path("states"))
    left = [names(state) for state in states if state.exists()]
    # Both checkpoints in the making and in place, one deleted, the model and its card.
    for seen in (".checkpoint-1.partial", ".checkpoint-2.partial", "checkpoint-2", LORA_NAME, "README.md"):
        assert any(seen in found for found in left), seen
    assert any("checkpoint-2" in found and "checkpoint-1" not in found for found in left)
    for state in states:
        put_back(state, output)
        assert train(flags, "--use_lora", "--resume_from_checkpoint=latest") == 0, state
        assert same_weights(output / LORA_NAME, whole / LORA_NAME), state
        # A checkpoint beyond the limit is deleted when the next is written, and none is written after the last step.
        assert names(output) - {"checkpoint-1"} == names(whole), state
