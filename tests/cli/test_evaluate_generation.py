"""Flags of `evaluate generation`: what must be given, what no run could use, and how they reach the evaluation."""

import pytest
import torch

from persam_dreambooth.cli.evaluate_generation import GenerationReportFlags, say
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.running import GenerationReport

NEEDED = {"model": ["m"], "instance_data_dir": "dog", "instance_mask_dir": "masks", "output": "out"}


@pytest.mark.parametrize("name", NEEDED)
def test_missing_flag_is_named(name, error_of):
    words = [word for each, value in NEEDED.items() if each != name for word in (f"--{each}", *value[:1])]
    assert f"--{name} is missing" in error_of("evaluate", "generation", *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scene_template": "a photo"}, "--scene_template 'a photo' has no {} for the scene's words"),
        ({"training_scenes": ["on a sofa", "\udcff"]}, "--training_scenes .* is not UTF-8 text"),
        ({"unique_token": "\udcff"}, "--unique_token .* is not UTF-8 text"),
        ({"height": 64}, "--height and --width belong together"),
        ({"class_images": -1}, "--class_images -1 must be at least 0"),
        ({"seed": 2**63 - 8}, r"must be less than 2\^63 - 8, since each further image adds 1"),
        ({"seed": 2**63 - 20, "num_images": 20}, r"must be less than 2\^63 - 20"),
    ],
)
def test_values_that_no_run_could_use_are_refused(changes, words):
    GenerationReportFlags(**NEEDED, seed=2**63 - 9)
    with pytest.raises(UserError, match=words):
        GenerationReportFlags(**NEEDED, **changes)


def test_none_leaves_a_model_out_and_precision_is_one_of_torch():
    settings = GenerationReportFlags(**NEEDED).settings()
    assert (settings["masc_model"], settings["dino_model"]) == (None, "facebook/dino-vits16")
    assert (settings["dtype"], settings["presence"], settings["model"]) == (torch.float32, None, ["m"])
    settings = GenerationReportFlags(**NEEDED, dino_model="none", dtype="bfloat16", presence="").settings()
    assert (settings["dino_model"], settings["dtype"], settings["presence"]) == (None, torch.bfloat16, None)


def test_report_is_printed_with_its_notes_and_paths(tmp_path, capsys):
    say(GenerationReport({}, ["DINO is left out"], "a table", tmp_path / "metrics.json", tmp_path / "report.html"))
    table, note, numbers, page = capsys.readouterr().out.splitlines()
    assert (table, note) == ("a table", "DINO is left out")
    assert numbers.endswith(f" {tmp_path / 'metrics.json'}") and page.endswith(f" {tmp_path / 'report.html'}")
