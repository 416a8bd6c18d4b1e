"""The settings of the methods: their names, and combinations that are refused."""

from dataclasses import replace

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import Insid3Method, Method, SegGptMethod
from persam_dreambooth.segmentation.fidelity import FIDELITIES
from persam_dreambooth.segmentation.method import METHODS


def test_unknown_fidelity_is_refused_with_known_ones():
    with pytest.raises(UserError, match=r"offical.*official, corrected, paper"):
        Method(fidelity="offical")


def test_alpha_without_effect_is_refused():
    with pytest.raises(UserError, match="'paper' only"):
        Method(alpha=2.0)
    assert Method(fidelity="paper", alpha=2.0).alpha == 2.0


@pytest.mark.parametrize("wrong", [{"edge_padding": -0.1}, {"edge_padding": 0.6}, {"edge_padding": float("nan")}])
def test_invalid_edge_padding_is_refused(wrong):
    with pytest.raises(UserError, match="edge_padding"):
        Method(**wrong)


@pytest.mark.parametrize("fidelity", ["official", "paper"])
def test_edge_padding_excludes_authors_fidelity(fidelity):
    with pytest.raises(UserError, match="'corrected' only"):
        Method(fidelity, edge_padding=0.1)


def test_paper_persam_f_is_persam_plus_mask_weights():
    paper = Method.persam_f("paper")
    assert replace(paper, mask_weights=False) == Method("paper")
    assert Method.persam_f("paper", refinement=False, alpha=2.0) == replace(paper, refinement=False, alpha=2.0)
    for fidelity in ("corrected", "official"):
        released = Method.persam_f(fidelity)
        assert not (released.negative_prior or released.guided_attention or released.semantic_prompting)


def test_released_persam_f_is_known_by_its_missing_guidance():
    assert [Method.persam_f(fidelity).is_released_f for fidelity in FIDELITIES] == [True, True, False]
    assert not Method(guided_attention=False, semantic_prompting=False).is_released_f  # no PerSAM-F
    for guided in ("guided_attention", "semantic_prompting"):
        assert not replace(Method.persam_f(), **{guided: True}).is_released_f


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fidelity": "paper"}, "no fidelity 'paper'; choose corrected or official"),
        ({"tau": 0.0}, "tau 0.0 must lie between 0 and 1"),
        ({"tau": 1.0}, "tau 1.0 must lie between 0 and 1"),
        ({"merge_threshold": -1.0}, "merge_threshold -1.0 must lie between -1 and 1"),
        ({"merge_threshold": 1.5}, "merge_threshold 1.5 must lie between -1 and 1"),
        ({"agreement": -0.1}, "agreement -0.1 must lie between 0 and 1"),
        ({"agreement": 2}, "agreement 2 must lie between 0 and 1"),
        ({"svd_components": 0}, "svd_components 0 must be at least 1"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_impossible_settings_of_insid3_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Insid3Method(**changes)
    Insid3Method(tau=0.99, merge_threshold=-0.99, agreement=1.0, svd_components=1)


def test_impossible_settings_of_seggpt_are_refused():
    with pytest.raises(UserError, match="choose feature or spatial"):
        SegGptMethod(ensemble="mean")
    with pytest.raises(UserError, match="memory_frames -1"):
        SegGptMethod(memory_frames=-1)
    assert SegGptMethod(ensemble="spatial", memory_frames=0).memory_frames == 0


def test_each_method_is_listed_under_its_name_with_its_defaults():
    assert list(METHODS) == ["persam", "persam-f", "insid3", "insid3-sam", "seggpt"]
    for name, method in METHODS.items():
        assert method.name == name
    assert (METHODS["persam"], METHODS["insid3"], METHODS["seggpt"]) == (Method(), Insid3Method(), SegGptMethod())
    assert METHODS["persam-f"].is_released_f and METHODS["insid3-sam"].with_sam
