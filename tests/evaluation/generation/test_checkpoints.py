"""`evaluate checkpoints`: checkpoints are the models of their steps, measured beside the base; the best is named."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from persam_dreambooth import generation
from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.checkpoints import checkpoint_titles, forget_outdated
from persam_dreambooth.evaluation.generation.models import digest_of
from persam_dreambooth.model_folder import trained_class, trained_token
from persam_dreambooth.model_source import ModelSource
from persam_dreambooth.review import runs
from tests.training.runs import as_words

SMALL = {"height": 32, "width": 32, "num_inference_steps": 1}
KINDS = {"lora": ["--use_lora", "--rank", "4"], "full": [], "full-text": ["--train_text_encoder"]}
ADAPTERS = {"lokr": ["--use_lora", "--rank", "2", "--adapter_type", "lokr"]}
lora_only = pytest.mark.parametrize("run", ["lora"], indirect=True)


@pytest.fixture(scope="module", params=KINDS)
def run(request, subject, models, tmp_path_factory):
    """A run of five steps with checkpoints after two and four; its result is of the fifth."""
    output = tmp_path_factory.mktemp("runs") / request.param
    flags = {
        "pretrained_model_name_or_path": models / "stable-diffusion",
        "instance_data_dir": subject / "photos",
        "instance_mask_dir": subject / "masks",
        "instance_prompt": "a sks disc",
        "class_prompt": "a disc",
        "output_dir": output,
        "resolution": 32,
        "train_batch_size": 1,
        "max_train_steps": 5,
        "checkpointing_steps": 2,
        "learning_rate": 1e-2,
        "lr_warmup_steps": 0,
        "seed": 0,
        "report_to": "none",
    }
    assert main(["train", *as_words(flags), *(KINDS | ADAPTERS)[request.param]]) == 0
    return output


@pytest.fixture
def words(run, models, eyes, tmp_path):
    """The command line."""
    small = {"num_images": 1, "class_images": 1, "num_inference_steps": 1, "device": "cpu"}
    eyes_of = {"sam": models / "sam", "clip_model": eyes / "clip", "dino_model": eyes / "dino"}
    return ["evaluate", "checkpoints", *as_words({"run": run, "output": tmp_path / "report"} | small | eyes_of)]


def drawn(model):
    pipeline = generation.load_pipeline(model, device="cpu")
    return np.asarray(generation.draw(pipeline, "a sks disc", 3, **SMALL).image, int)


def test_checkpoint_draws_as_the_model_of_its_step(run, models, tmp_path):
    last = run / "checkpoint-4"
    pictures = {
        name: drawn(folder) for name, folder in (("base", models / "stable-diffusion"), ("4", last), ("5", run))
    }
    assert (pictures["4"] != pictures["base"]).any() and (pictures["4"] != pictures["5"]).any()
    config = run / "training_config.yaml"
    flags = ["--config", str(config), "--output_dir", str(tmp_path / "short"), "--max_train_steps", "4"]
    assert main(["train", *flags]) == 0
    assert np.abs(pictures["4"] - drawn(tmp_path / "short")).max() <= 1


@lora_only
def test_all_checkpoints_and_the_result_are_compared_with_the_base(run, words, tmp_path, capsys):
    assert main(words) == 0
    printed, output = capsys.readouterr().out, tmp_path / "report"
    stored = json.loads((output / "metrics.json").read_text())
    assert list(stored["models"]) == ["base", "step-2", "step-4", "result"]
    chosen = stored["checkpoints"]
    assert [(score["title"], score["step"]) for score in chosen["scores"]] == [
        ("step-2", 2),
        ("step-4", 4),
        ("result", 5),
    ]
    best = max(chosen["scores"], key=lambda score: score["score"])
    assert chosen["best"] == best["title"] and chosen["reason"] in printed and chosen["reason"] in stored["notes"][0]
    assert f"{best['title']} is the best of 3" in (output / "report.html").read_text()
    assert all(len(row["pictures"]) == 1 for row in stored["prompts"]) and len(stored["prompts"]) == 4 * 5
    assert {row["prompt"] for row in stored["prompts"]} >= {"a sks disc in the jungle"}
    settings = stored["settings"]
    assert (settings["class_prompt"], settings["height"], settings["photos"]) == ("a disc", 32, 3)
    assert all(row["of_base_model"] is not None for row in stored["class_pictures"]["step-4"])
    before = (output / "metrics.json").read_bytes()
    assert main(words) == 0  # everything is there
    assert (
        json.loads((output / "metrics.json").read_bytes())["checkpoints"]["best"]
        == json.loads(before)["checkpoints"]["best"]
    )


@pytest.fixture
def short(tmp_path):
    """More words, for a report that takes less time."""
    (tmp_path / "prompts.txt").write_text("a {unique_token} {class_token} [in the snow]")
    return ["--prompts", str(tmp_path / "prompts.txt"), "--steps", "2", "4", "--dino_model", "none"]


@pytest.mark.parametrize("run", ["full", *ADAPTERS], indirect=True)
def test_checkpoints_of_other_kinds_are_compared(run, words, short, tmp_path):
    assert main([*words, *short]) == 0
    stored = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert list(stored["models"]) == ["base", "step-2", "step-4"] and stored["checkpoints"]["best"]
    first, second = (stored["models"][name] for name in ("step-2", "step-4"))
    assert first != second


@lora_only
def test_report_in_the_run_is_what_the_page_shows(run, words, short):
    at = words.index("--output")
    assert main([*words[:at], *words[at + 2 :], *short]) == 0
    curves = runs.checkpoint_curves(run)
    stored = json.loads((run / "checkpoint-report" / "metrics.json").read_text())["checkpoints"]
    assert curves.reason == stored["reason"] and "best of 2" in curves.reason
    assert len(curves.points) == 6 and {step for step, _, _ in curves.points} == {2, 4}
    assert (2, stored["scores"][0]["fidelity"], "subject") in curves.points
    (run / "checkpoint-report" / "metrics.json").write_text('{"checkpoints": {"scores": [7]}}')
    assert runs.checkpoint_curves(run) is None


@lora_only
def test_mistakes_are_refused(run, words, tmp_path, capsys):
    for changed, reason in (
        (["--steps", "3"], "holds no checkpoint of step 3 (there: 2, 4, 5)"),
        (["--steps", "two"], "must be numbers"),
        (["--instance_data_dir", str(tmp_path)], "belong together"),
        (["--run", str(tmp_path)], "holds no checkpoint (there: none"),
    ):
        assert main([*words, *changed]) == 2
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_pictures_of_a_replaced_result_are_drawn_again(tmp_path):
    report, weights = tmp_path / "checkpoint-report", tmp_path / "pytorch_lora_weights.safetensors"
    save_file({"a": torch.zeros(1)}, weights)
    folder = report / "models" / "result"
    folder.mkdir(parents=True)
    (folder / "drawing.json").write_text(json.dumps({"weights": digest_of(ModelSource(str(tmp_path)))}))
    forget_outdated(report, tmp_path, ["step-2", "result"])
    assert folder.exists()
    save_file({"a": torch.ones(1)}, weights)
    forget_outdated(report, tmp_path, ["step-2", "result"])
    assert not folder.exists()


def test_words_of_the_subject_are_the_runs(run):
    assert (trained_token(run), trained_class(run)) == ("sks", "disc")


def test_checkpoints_that_only_training_reads_are_refused(tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "progress.json").write_text("{}")
    with pytest.raises(UserError, match="FSDP"):
        checkpoint_titles(tmp_path)
