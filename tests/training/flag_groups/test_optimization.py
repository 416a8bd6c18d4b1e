"""Flags of the optimization: names and settings of the optimizer, ranges, and contradictions."""

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import OptimizationConfig
from tests.training.flag_groups.parsed import of_flags, refusal


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--learning_rate", "-0.1"], "--learning_rate -0.1 must be at least 0"),
        (["--learning_rate", "inf"], "--learning_rate inf must be finite"),
        (["--adam_beta2", "1"], "--adam_beta2 1.0 must lie in [0, 1)"),
        (["--ema_decay", "1"], "--ema_decay 1.0 must lie in [0, 1)"),
        (["--snr_gamma", "0"], "--snr_gamma 0.0 must be at least 1e-06"),
        (["--logit_std", "0"], "--logit_std 0.0 must be at least 1e-06"),
        (["--precondition_outputs", "2"], "--precondition_outputs 2 must lie in [0, 1]"),
        (["--seed", str(2**32)], "--seed 4294967296 must lie in [0, 2^32)"),
        (["--gradient_accumulation_steps", "0"], "--gradient_accumulation_steps 0 must be at least 1"),
        (["--mixed_precision", "fp8"], "fp8 (choose from no, fp16, bf16)"),
        (["--weighting_scheme", "cosine"], "cosine (choose from sigma_sqrt, logit_normal, mode,"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_values_outside_are_refused(words, said):
    assert said in refusal(OptimizationConfig, *words)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "adamw"),
        (["--optimizer", "AdamW"], "adamw"),
        (["--use_8bit_adam"], "adamw8bit"),
        (["--optimizer", "AdamW", "--use_8bit_adam"], "adamw8bit"),
        (["--optimizer", "Prodigy"], "prodigy"),
        (["--optimizer", "paged_AdamW8bit"], "paged_adamw8bit"),
        (["--optimizer", "paged_adamw8bit", "--use_8bit_adam"], "paged_adamw8bit"),
    ],
    ids=" ".join,
)
def test_an_optimizer_has_one_name(words, name):
    assert of_flags(OptimizationConfig, *words).optimizer == name


def test_settings_of_prodigy_are_kept_in_one_place():
    """Diffusers' flags become settings of `--optimizer_args`, and other optimizers ignore them."""
    words = ["--prodigy_beta3", "0.9", "--no_prodigy_decouple"]
    config = of_flags(OptimizationConfig, "--optimizer", "prodigy", *words, "--optimizer_args", "d_coef=2")
    assert config.optimizer_args == {"beta3": 0.9, "decouple": False, "d_coef": 2.0}
    assert of_flags(OptimizationConfig, *words).optimizer_args == {}
    for found in (config, of_flags(OptimizationConfig, *words)):
        assert {value for name, value in vars(found).items() if name.startswith("prodigy_")} == {None}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimizer": "sgd"}, "--optimizer sgd is unknown; choose one of adamw, adamw8bit, paged_adamw8bit, prodigy"),
        ({"optimizer": "prodigy", "use_8bit_adam": True}, "--use_8bit_adam and --optimizer prodigy exclude"),
        ({"optimizer": "prodigy", "text_encoder_lr": 0.1}, "drop --text_encoder_lr"),
        (
            {"optimizer": "prodigy", "learning_rate": 0.0},
            "needs --learning_rate .1 if unset. and --adam_epsilon above",
        ),
        ({"optimizer": "prodigy", "adam_epsilon": 0.0}, "needs --learning_rate .1 if unset. and --adam_epsilon above"),
        ({"optimizer": "adamw", "optimizer_args": {"d_coef": 2.0}}, "adamw has no such setting"),
        ({"seed_each_batch": True}, "--seed_each_batch needs --seed, any number"),
    ],
    ids=str,
)
def test_contradictions_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        OptimizationConfig(**given)


def test_zeros_are_numbers():
    """Values that are false in Python are not taken for unset ones."""
    assert OptimizationConfig(seed_each_batch=True, seed=0).seed == 0
    config = OptimizationConfig(learning_rate=0.0, adam_epsilon=0.0, text_encoder_lr=0.0, max_grad_norm=0.0)
    assert (config.learning_rate, config.adam_epsilon, config.text_encoder_lr) == (0.0, 0.0, 0.0)
    with pytest.raises(UserError, match="--adam_weight_decay_text_encoder and weight_decay in --optimizer_args"):
        OptimizationConfig(adam_weight_decay_text_encoder=0.0, optimizer_args={"weight_decay": 0.0})
