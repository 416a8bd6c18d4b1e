"""The settings in `--optimizer_args`: their kinds and ranges by optimizer, and Prodigy's old flags."""

import math

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.optimizer_args import ALLOWED, FIXED, checked, with_old_flags


def test_numbers_become_floats_and_whole_numbers_and_switches_stay():
    given = {"betas": [0, 0.99], "weight_decay": 1, "slice_p": 11, "decouple": False, "d0": 1e-6}
    read = checked("prodigy", given)
    assert read == {"betas": [0.0, 0.99], "weight_decay": 1.0, "slice_p": 11, "decouple": False, "d0": 1e-6}
    kinds = {name: type(value) for name, value in read.items()}
    assert kinds == {"betas": list, "weight_decay": float, "slice_p": int, "decouple": bool, "d0": float}
    assert checked("adamw", {}) == {}


@pytest.mark.parametrize(
    ("optimizer", "given", "words"),
    [
        ("adamw", {"d0": 1e-6}, "--optimizer_args d0: adamw has no such setting; choose among betas, weight_decay"),
        ("adamw", {"amsgrad": 1}, "amsgrad=1 must be True or False"),
        ("adamw", {"weight_decay": True}, "weight_decay=True must be a number"),
        ("adamw", {"weight_decay": "0.1"}, "weight_decay=0.1 must be a number"),
        ("adamw", {"betas": 0.9}, "must be 2 numbers, such as 0.9,0.99"),
        ("adamw", {"betas": [0.9, 0.99, 0.999]}, "must be 2 numbers"),
        ("adamw", {"betas": [0.9, 1]}, "must lie in [0, 1)"),
        ("adamw", {"betas": [-0.1, 0.9]}, "must lie in [0, 1)"),
        ("adamw", {"eps": math.nan}, "eps=nan must be at least 0"),
        ("adamw", {"eps": math.inf}, "eps=inf must be finite"),
        ("adamw", {"weight_decay": 10**400}, "must be finite"),  # too large for a float
        ("adamw8bit", {"min_8bit_size": 4096.0}, "must be a whole number"),
        ("paged_adamw8bit", {"min_8bit_size": 0}, "must be at least 1"),
        ("prodigy", {"eps": 0}, "eps=0 must be at least 1e-30"),
        ("prodigy", {"growth_rate": 0.5}, "must be at least 1"),
    ],
)
def test_what_an_optimizer_cannot_use_is_refused(optimizer, given, words):
    with pytest.raises(UserError) as refused:
        checked(optimizer, given)
    assert words in str(refused.value) and str(refused.value).startswith(f"--optimizer_args {next(iter(given))}")


def test_settings_that_a_resumed_run_must_keep_exist():
    assert all(any(name in settings for settings in ALLOWED.values()) for name in FIXED)


def test_prodigys_old_flags_count_where_they_differ_from_their_defaults():
    flags = {"prodigy_beta3": 0.9, "prodigy_decouple": True, "prodigy_safeguard_warmup": False}
    assert with_old_flags({"optimizer": "prodigy"} | flags) == {"beta3": 0.9, "safeguard_warmup": False}
    newer = {"optimizer_args": {"beta3": 0.8, "d0": 1e-6}}
    assert with_old_flags({"optimizer": "prodigy"} | flags | newer) == {
        "beta3": 0.8,
        "safeguard_warmup": False,
        "d0": 1e-6,
    }
    assert with_old_flags({"optimizer": "adamw"} | flags) == {}
    assert with_old_flags({"optimizer": "prodigy", "prodigy_beta3": None, "optimizer_args": None}) == {}
