"""Flags of `evaluate`: those that a method or a benchmark does not read are refused."""

import pytest

from persam_dreambooth.cli.evaluate_flags import EvaluateFlags
from persam_dreambooth.cli.sam_flags import SamFlags
from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import Insid3Method, Method, SegGptMethod


def test_size_without_features_is_refused(error_of):
    argv = ["perseg", "--data", "d", "--output", "o", "--features_size", 64]
    assert "give --features" in error_of("evaluate", *argv)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--method", "seggpt", "--features", "x"], "seggpt takes neither --features"),
        (["--method", "seggpt", "--fidelity", "official"], "nor --fidelity; leave them out"),
        (["--seggpt", "x"], "--seggpt is read by SegGPT only"),
        (["--ensemble", "spatial"], "--ensemble is read by SegGPT only"),
        (["--method", "seggpt", "--ensemble", "spatial"], "give --shots 2 or more"),
        (["--method", "insid3", "--reference", "box"], "--reference box has no effect on insid3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_that_a_method_does_not_read_are_refused(error_of, flags, expected):
    assert expected in error_of("evaluate", "perseg", "--data", "d", "--output", "o", *flags)


def flags(**changes):
    return EvaluateFlags(data="d", output="o", **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"memory": "sam2", "method": "insid3"}, "--memory follows the objects without --method"),
        ({"memory": "sam2", "fidelity": "paper"}, "--memory follows the objects without --method"),
        ({"method": "seggpt", "crop_n_layers": 1}, "--crop_n_layers has no effect on --method seggpt"),
        ({"folds": ["0", "-1"]}, "--folds 0 -1 must be numbers"),
        ({"tables": ["4", "x"]}, "--tables x is unknown; choose among 4, 5, 6"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        flags(**changes)


def test_method_and_models_are_those_that_were_named():
    assert flags(method="persam-f", fidelity="paper").chosen_method() == Method.persam_f("paper")
    assert flags(fidelity="official").chosen_method() == Method(fidelity="official")
    assert flags(method="insid3-sam").chosen_method() == Insid3Method(with_sam=True)
    seggpt = flags(method="seggpt", seggpt="model", ensemble="spatial", shots=2)
    assert seggpt.chosen_method() == SegGptMethod("model", "spatial") and seggpt.models("vit") == "SegGPT model"
    assert flags(features="dino", crop_n_layers=2).models("vit") == "SAM vit, features dino, 2 layers of crops"
    assert flags(method="insid3").models("vit") == "the method's own model"
    assert flags(memory="sam2").models("vit") == "memory of sam2"


def test_settings_tell_runs_apart_and_older_runs_can_be_resumed():
    plain, sam = flags(), SamFlags(sam="vit")
    before = {"evaluation": "perseg", "sam": "vit", "dtype": "float32", "folds": [], "episodes": None}
    assert plain.settings("perseg", sam) == before | {"shots": 1, "seed": 0}
    changes = {"reference": "box", "features": "dino", "crop_n_layers": 1, "seed": 5, "folds": ["1"]}
    for name, value in changes.items():
        assert flags(**{name: value}).settings("perseg", sam)[name] == value
    assert plain.settings("perseg", SamFlags(sam="vit", sam_size=1536), more=1)["sam_size"] == 1536
