"""Console output of a training: the plan, the loss, the paths of the results, and nothing else."""

from pathlib import Path
from statistics import fmean

from persam_dreambooth.metrics_file import read_metrics
from persam_dreambooth.training import screen
from tests.training.runs import train


def test_run_prints_its_plan_and_picture_paths(flags, capsys):
    drawn = {"validation_prompt": "a sks dog", "num_validation_images": 2, "validation_steps": 2}
    prior = {"class_prompt": "a dog", "background_prior_weight": 0.5, "checkpointing_steps": 2, "report_to": "none"}
    assert train(flags, "--use_lora", gradient_accumulation_steps=2, **drawn, **prior) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    head = lines.index("device: cpu, float32")
    assert (
        lines[head + 1].startswith("training: LoRA rank 4 of stable-diffusion's unet, 0.0")
        and " M of " in lines[head + 1]
    )
    assert lines[head + 2 : head + 6] == [
        "photos: 3, 32 x 32 pixels; 4 a step (2 in a batch x 2 accumulated)",
        "steps: 4, 4 epochs of 1 step",
        "loss: instance_loss (inside the masks, normalization sample) + 0.5 x background_prior_loss",
        "from the beginning",
    ]
    assert "validation: output/validation/step-000002-0.png to step-000002-1.png" in lines
    assert "validation: output/validation/step-000004-0.png to step-000004-1.png" in lines
    assert "mean loss" in printed.err
    (last,) = [line for line in lines if line.startswith("trained 4 steps in ")]
    assert lines.index(last) < lines.index("the model: output") and f"mean loss {mean_loss('output'):.4f}" in last
    assert not [word for word in ("Loading", "[RANK", "warning") if word in printed.out + printed.err]
    go_on = {"max_train_steps": 5, "resume_from_checkpoint": "checkpoint-4"}
    assert train(flags, "--use_lora", gradient_accumulation_steps=2, **prior | go_on) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "resumed from output/checkpoint-4, after 4 steps" in lines
    (last,) = [line for line in lines if line.startswith("trained 1 step in ")]
    assert f"mean loss {mean_loss('output'):.4f}" in last  # of all five steps


def mean_loss(folder):
    return fmean(values["loss"] for values in read_metrics(Path(folder)).values())


def test_progress_bar_shows_mean_of_last_losses(capfd):
    with screen.LossBar(100, 0, hidden=False) as bar:
        for step in range(60):
            bar.advance(float(step))
        assert bar.postfix == "mean loss 34.5000"  # of 10 to 59
        bar.refresh()
    assert "mean loss 34.5000" in capfd.readouterr().err


def test_time_of_validation_images_is_none_of_a_steps(flags, monkeypatch):
    continued = []
    monkeypatch.setattr(screen.LossBar, "unpause", lambda bar: continued.append(bar.n))
    drawn = {"validation_prompt": "a sks dog", "num_validation_images": 1, "validation_steps": 2}
    assert train(flags, "--use_lora", **drawn, max_train_steps=3, report_to="none") == 0
    assert continued == [2]
