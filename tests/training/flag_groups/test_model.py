"""Flags of the base model and its fine-tuning: defaults of LoRA and textual inversion, and contradictions."""

from pathlib import Path

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import ModelConfig, TrainingConfig
from tests.training.flag_groups.parsed import of_flags, refusal
from tests.training.runs import train
from tests.training.small import configure

PRIOR = {"with_prior_preservation": True, "class_data_dir": "class", "class_prompt": "a dog"}
LAYERWISE = {"layerwise_upcasting_storage_dtype": "float8_e5m2", "gradient_checkpointing": True}


def with_base(**given):
    return ModelConfig(pretrained_model_name_or_path="base", **given)


@pytest.mark.parametrize("flag", ["--lora_alpha=8", "--use_dora"])
def test_alpha_and_dora_without_lora_are_refused(flags, capsys, flag):
    assert train(flags, flag) == 2
    assert "--lora_alpha and --use_dora are for LoRA; add --use_lora" in capsys.readouterr().err
    assert not Path("output").exists()


def test_dora_of_text_encoder_is_refused(flags, capsys):
    assert train(flags, "--use_lora", "--use_dora", "--train_text_encoder") == 2
    assert "--use_dora and --train_text_encoder exclude each other" in capsys.readouterr().err
    assert not Path("output").exists()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"max_token_length": 100}, "must be 150 or 225"),
        ({"max_token_length": 150, "tokenizer_max_length": 60}, "--tokenizer_max_length exclude each other"),
        ({"max_token_length": 150, "text_encoder_use_attention_mask": True}, "exclude each other"),
    ],
)
def test_contradicting_limits_of_tokens_are_refused(model, words):
    with pytest.raises(UserError, match=words):
        configure("base", model)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_lora": False, "train_text_encoder_ti_frac": 0.5}, "would end the training"),
        ({"use_lora": False, **PRIOR}, "cannot influence the new words"),
        ({"use_lora": False, "rank": 4}, "--rank and --lora_dropout are for LoRA"),
        ({"use_lora": False, "output_kohya_format": True}, "--output_kohya_format is for LoRA"),
        ({"train_text_encoder_ti": False, "enable_t5_ti": True}, "--enable_t5_ti is about textual inversion"),
        ({"train_text_encoder": True}, "--train_text_encoder, which trains the text encoders themselves, exclude"),
        ({"pre_compute_text_embeddings": True}, "--pre_compute_text_embeddings, which encodes the prompts only once"),
        ({"initializer_concept": "dog", "num_new_tokens_per_abstraction": 1}, "exclude each other; drop one"),
        ({"token_abstraction": "TOK,TOK2"}, "TOK is a part of TOK2; give others, such as TOK1,TOK2"),
        ({"token_abstraction": "A,A"}, "A is a part of A"),
        ({"token_abstraction": "my dog"}, "'my dog' is not one word"),
        ({"train_text_encoder_ti": False, "token_abstraction": "TOK"}, "add --train_text_encoder_ti, or drop it"),
        ({"train_text_encoder_ti": False, "text_encoder_lr": 1e-3}, "add --train_text_encoder or"),
    ],
    ids=str,
)
def test_contradictions_of_textual_inversion_are_refused(settings, words):
    given = {"pretrained_model_name_or_path": "base", "instance_data_dir": "dog", "instance_mask_dir": "masks"}
    given |= {"instance_prompt": "a TOK dog", "use_lora": True, "train_text_encoder_ti": True}
    with pytest.raises(UserError) as error:
        TrainingConfig(**given | settings)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--use_lora", "--rank", "0"], "--rank 0 must be at least 1"),
        (["--use_lora", "--lora_dropout", "1.5"], "--lora_dropout 1.5 must lie in [0, 1]"),
        (["--guidance_scale", "-1"], "--guidance_scale -1.0 must be at least 0"),
        (["--max_sequence_length", "1"], "--max_sequence_length 1 must be at least 2"),
        (
            ["--train_text_encoder_ti", "--num_new_tokens_per_abstraction", "76"],
            "--num_new_tokens_per_abstraction 76 must lie in [1, 75]",
        ),
        (["--adapter_type", "dora"], "dora (choose from lora, loha, lokr, oft)"),
        (["--quantize", "int4"], "int4 (choose from int8, fp8)"),
    ],
    ids=lambda value: value[-2] if isinstance(value, list) else "",
)
def test_values_outside_are_refused(words, said):
    assert said in refusal(ModelConfig, *words)


def test_defaults_of_lora_are_set_with_it_only():
    """A zero that was given is kept; without LoRA nothing is set, and what is about LoRA is refused."""
    config = of_flags(ModelConfig, "--use_lora")
    assert (config.rank, config.lora_alpha, config.lora_dropout, config.frozen_base) == (4, None, 0.0, True)
    config = of_flags(ModelConfig, "--use_lora", "--rank", "8", "--lora_alpha", "2", "--lora_dropout", "0.25")
    assert (config.rank, config.lora_alpha, config.lora_dropout) == (8, 2, 0.25)
    config = of_flags(ModelConfig)
    assert (config.rank, config.lora_dropout, config.frozen_base) == (None, None, False)
    for given in (
        {"rank": 4},
        {"lora_dropout": 0.0},
        {"lora_alpha": 4},
        {"lora_layers": "to_q"},
        {"lora_blocks": "1"},
    ):
        with pytest.raises(UserError, match=f"--{next(iter(given))}.* LoRA; add --use_lora"):
            with_base(**given)


def test_defaults_of_textual_inversion():
    """The share of the steps is set only where something else is learned as well."""
    alone, pivotal = (of_flags(ModelConfig, "--train_text_encoder_ti", *more) for more in ((), ("--use_lora",)))
    for config, share in ((alone, None), (pivotal, 0.5)):
        assert (config.token_abstraction, config.new_words) == ("TOK", ["TOK"])
        assert (config.num_new_tokens_per_abstraction, config.train_text_encoder_ti_frac) == (2, share)
        assert config.frozen_base
    concept = of_flags(
        ModelConfig, "--train_text_encoder_ti", "--initializer_concept", "dog", "--token_abstraction", "A1, B1"
    )
    assert concept.num_new_tokens_per_abstraction is None and concept.new_words == ["A1", "B1"]
    assert of_flags(ModelConfig).new_words == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quantize": "int8"}, "--quantize is for a frozen base model"),
        ({"bnb_quantization_config_path": "bnb.json"}, "--bnb_quantization_config_path is for a frozen base model"),
        ({"use_lora": True, "quantize": "fp8", "do_fp8_training": True}, "--do_fp8_training and --quantize exclude"),
        ({"use_lora": True, "quantize": "fp8", **LAYERWISE}, "--quantize and --layerwise_upcasting_storage_dtype ex"),
        ({"use_lora": True, "quantize": "fp8", "adapter_type": "lokr"}, "--quantize and --adapter_type lokr exclude"),
        ({"use_lora": True, **LAYERWISE, "use_dora": True}, "and --use_dora exclude each other"),
        ({"use_lora": True, **LAYERWISE, "gradient_checkpointing": False}, "without --gradient_checkpointing"),
    ],
    ids=str,
)
def test_weights_are_stored_in_fewer_bits_once_and_if_frozen(given, said):
    assert with_base(use_lora=True, **LAYERWISE) and with_base(do_fp8_training=True)
    assert with_base(train_text_encoder_ti=True, quantize="int8")
    with pytest.raises(UserError, match=said):
        with_base(**given)


def test_flags_of_single_files_and_of_the_hub_exclude_each_other(tmp_path):
    file = tmp_path / "base.safetensors"
    missing = ModelConfig(pretrained_model_name_or_path=str(file), single_file_config="configs", variant="fp16")
    assert missing.single_file_config  # what is wrong with the path is said when it is read
    file.touch()
    for flag in ("revision", "variant"):
        with pytest.raises(UserError, match=f"--{flag} is about a base model on the hub"):
            ModelConfig(pretrained_model_name_or_path=str(file), **{flag: "fp16"})
    with pytest.raises(UserError, match="--quantize needs the folder or hub name of a pipeline, not a single file"):
        ModelConfig(pretrained_model_name_or_path=str(file), use_lora=True, quantize="int8")
    with pytest.raises(UserError, match="--single_file_config is about a base model in a single file, which base is"):
        with_base(single_file_config="configs")
    with pytest.raises(UserError, match="--pretrained_model_name_or_path is missing"):
        ModelConfig()
