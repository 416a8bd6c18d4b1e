"""Flags of the one-shot method: which one they choose, and that they are read by their own methods only."""

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import Insid3Method, Method, SegGptMethod
from tests.cli.parsed import segment_flags
from tests.segmentation.test_features import dinov3


def test_persam_f_is_selected_by_name():
    assert segment_flags("--method", "persam-f")[1].chosen_method() == Method.persam_f()
    printed = segment_flags("--method", "persam-f", "--fidelity", "paper", "--alpha", "2")[1].chosen_method()
    assert printed == Method.persam_f("paper", alpha=2.0)
    assert segment_flags()[1].chosen_method() == Method()


def test_insid3_is_selected_by_name():
    assert segment_flags("--method", "insid3", "--tau", "0.5")[1].chosen_method() == Insid3Method(tau=0.5)
    chosen = segment_flags("--method", "insid3-sam", "--agreement", "0.3", "--fidelity", "official")[1].chosen_method()
    assert chosen == Insid3Method("official", with_sam=True, agreement=0.3)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["persam-f", "--alpha", "2"], "alpha is used by fidelity 'paper' only"),
        (["persam-f", "--no_guided_attention"], "--no_guided_attention is not read by --method persam-f"),
        (["insid3", "--edge_padding", "0.1"], "only by persam and persam-f"),
        (["persam", "--tau", "0.5"], "only by insid3 and insid3-sam"),
        (["insid3", "--agreement", "0.5"], "only by insid3-sam"),
        (["insid3", "--fidelity", "paper"], "choose corrected or official"),
        (["persam", "--features_size", "64"], "give --features"),
        (["insid3", "--sam", "vit_h"], "--sam has no effect on --method insid3"),
        (["insid3", "--dtype", "bfloat16"], "--dtype has no effect on --method insid3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_of_another_method_are_refused(error_of, argv, expected):
    words = ["segment", "--images", "p", "--output", "o", "--reference", "a.jpg", "--reference_mask", "m.png"]
    assert expected in error_of(*words, "--method", *argv)


def test_seggpt_is_selected_by_name():
    chosen = segment_flags("--method", "seggpt", "--seggpt", "model", "--ensemble", "spatial")[1].chosen_method()
    assert chosen == SegGptMethod("model", "spatial")


def test_what_a_run_does_not_use_is_refused():
    seggpt = segment_flags("--method", "seggpt", "--ensemble", "spatial")[1]
    seggpt.refuse_unused(2, None)
    with pytest.raises(UserError, match="--ensemble combines several references"):
        seggpt.refuse_unused(1, None)
    with pytest.raises(UserError, match="--embedding_cache has no effect on --method seggpt"):
        segment_flags("--method", "seggpt")[1].refuse_unused(1, "cache")
    segment_flags()[1].refuse_unused(1, "cache")


def test_encoder_is_loaded_where_the_method_locates_with_one(tmp_path):
    dinov3().save_pretrained(tmp_path)
    assert segment_flags()[1].feature_encoder("cpu") is None
    assert segment_flags("--method", "seggpt")[1].feature_encoder("cpu") is None
    named = segment_flags("--features", str(tmp_path), "--features_size", "128")[1]
    assert named.feature_encoder("cpu").image_size == 128
    with pytest.raises(UserError, match="facebook/dinov3-vitl16-pretrain-lvd1689m"):  # the paper's
        segment_flags("--method", "insid3")[1].feature_encoder("cpu")
