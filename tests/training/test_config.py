"""TrainingConfig from Python: its keywords are the flags, read as the command line reads them."""

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import persam_dreambooth as pd
from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import GROUPS, TrainingConfig
from tests.training.runs import as_words

ROOT = Path(__file__).parents[2]
GIVEN = {
    "pretrained_model_name_or_path": "base",
    "instance_data_dir": "dog",
    "instance_mask_dir": "dog-masks",
    "instance_prompt": "a sks dog",
}


def of_flags(*words):
    return pd.TrainingConfig(*parse(GROUPS, list(words), "train", "a training"))


def test_keywords_give_what_flags_give():
    more = {"use_lora": True, "learning_rate": 1e-4, "max_train_steps": 500, "mixed_precision": "no"}
    assert pd.TrainingConfig(**GIVEN, **more) == of_flags(*as_words(GIVEN | more))
    assert pd.TrainingConfig(**GIVEN).optimization.learning_rate == 5e-6  # what is left out has the flag's default


def test_paths_numbers_of_numpy_and_none_are_taken():
    given = GIVEN | {
        "instance_data_dir": Path("dog"),
        "seed": np.int64(3),
        "adam_beta1": np.float32(0.5),
        "rank": None,
    }
    config = pd.TrainingConfig(**given)
    assert config == pd.TrainingConfig(**GIVEN, seed=3, adam_beta1=0.5)
    assert type(config.data.instance_data_dir) is str and type(config.optimization.seed) is int


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"rnak": 4}, "unknown key 'rnak'; did you mean rank?"),
        ({"resolution": "wide"}, "--resolution: 'wide' is not a whole number"),
        ({"resolution": 512.5}, "--resolution: '512.5' is not a whole number"),
        ({"resolution": True}, "resolution is read as true"),
        ({"resolution": [512]}, "resolution takes one value"),
        ({"use_lora": "maybe"}, "'maybe' is neither yes nor no"),
        ({"mixed_precision": "fp8"}, "--mixed_precision: 'fp8' is none of no, fp16, bf16"),
        ({"rank": 4}, "--use_lora"),  # settings are checked against each other
        ({"instance_prompt": None}, "--instance_prompt is missing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_is_one_line(wrong, words):
    with pytest.raises(pd.UserError) as refused:
        pd.TrainingConfig(**GIVEN | wrong)
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_is_loaded_as_config_loads_it(recipe):
    given = GIVEN | {"class_prompt": "a dog", "class_data_dir": "class"}
    assert pd.TrainingConfig.load(recipe, **given) == of_flags("--config", str(recipe), *as_words(given))


def test_what_was_saved_is_loaded_and_keywords_win(tmp_path):
    config = pd.TrainingConfig(**GIVEN, use_lora=True, seed=3, mixed_precision="no", hub_token="hf_secret")
    config.save(tmp_path)
    config.save(tmp_path / "mine.yaml")
    saved = (tmp_path / "training_config.yaml").read_text()
    assert saved == (tmp_path / "mine.yaml").read_text() and "hf_secret" not in saved
    loaded = pd.TrainingConfig.load(tmp_path)
    assert loaded.flat() == config.to_save() == pd.TrainingConfig.load(tmp_path / "mine.yaml").flat()
    other = pd.TrainingConfig.load(tmp_path, seed=None, rank=8)
    assert (other.optimization.seed, other.model.rank) == (None, 8)


def test_a_mistake_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("rank: many\n")
    with pytest.raises(pd.UserError, match=r"--rank in .*mine\.yaml: 'many' is not a whole number"):
        pd.TrainingConfig.load(path, **GIVEN)
    assert pd.TrainingConfig.load(path, **GIVEN, use_lora=True, rank=2).model.rank == 2
    with pytest.raises(pd.UserError, match="no config at"):
        pd.TrainingConfig.load(tmp_path / "nowhere.yaml")


def test_an_old_name_is_a_keyword_with_one_line(capsys, tmp_path):
    config = pd.TrainingConfig(**GIVEN, doubtful_photo_weight=0.5)
    (line,) = capsys.readouterr().err.splitlines()
    assert "--doubtful_photo_weight is called --uncertain_photo_weight now" in line
    assert config == pd.TrainingConfig(**GIVEN, uncertain_photo_weight=0.5) and "doubtful" not in str(config.flat())
    path = tmp_path / "old.yaml"
    path.write_text("doubtful_photo_weight: 0.5\n")
    assert pd.TrainingConfig.load(path, **GIVEN) == config
    assert pd.TrainingConfig.load(path, **GIVEN, uncertain_photo_weight=1.0).mask.uncertain_photo_weight == 1.0
    assert f"in {path} is called" in capsys.readouterr().err
    with pytest.raises(pd.UserError, match="drop one"):
        pd.TrainingConfig(**GIVEN, doubtful_photo_weight=0.5, uncertain_photo_weight=0.5)


PRODIGY = GIVEN | {"optimizer": "prodigy"}


@pytest.mark.parametrize(
    "words, expected",
    [
        (
            ["--optimizer_args", "beta3=0.9", "decouple=False", "d_coef=2"],
            {"beta3": 0.9, "decouple": False, "d_coef": 2.0},
        ),
        (["--optimizer_args", "betas=0.9,0.99", "weight_decay=1e-2"], {"betas": [0.9, 0.99], "weight_decay": 0.01}),
        (["--prodigy_beta3", "0.9", "--no_prodigy_decouple"], {"beta3": 0.9, "decouple": False}),
        (
            ["--prodigy_decouple=False", "--prodigy-safeguard-warmup", "no"],
            {"decouple": False, "safeguard_warmup": False},
        ),
        (["--prodigy_beta3", "0.9", "--optimizer_args", "beta3=0.8"], {"beta3": 0.8}),
        (["--prodigy_use_bias_correction"], {}),  # as it is without
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_of_the_optimizer_are_read(words, expected, capsys):
    config = of_flags(*as_words(PRODIGY), *words)
    assert config.optimization.optimizer_args == expected
    assert config == pd.TrainingConfig(**PRODIGY, optimizer_args=expected)
    assert not {key for key in config.flat() if key.startswith("prodigy_")}
    assert capsys.readouterr().err == ""  # diffusers' names stay


@pytest.mark.parametrize(
    "written",
    ["optimizer_args: {betas: [0.9, 0.99], d_coef: 2}", 'optimizer_args: ["betas=0.9,0.99", d_coef=2]'],
)
def test_settings_of_the_optimizer_in_yaml_are_a_mapping_or_a_list(written, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(written + "\n")
    config = pd.TrainingConfig.load(path, **PRODIGY)
    assert config.optimization.optimizer_args == {"betas": [0.9, 0.99], "d_coef": 2.0}
    assert of_flags("--config", str(path), *as_words(PRODIGY)) == config
    config.save(tmp_path)
    assert pd.TrainingConfig.load(tmp_path).optimization == config.optimization
    replaced = of_flags("--config", str(path), *as_words(PRODIGY), "--optimizer_args", "d_coef=1")
    assert replaced.optimization.optimizer_args == {"d_coef": 1.0}


@pytest.mark.parametrize(
    "optimizer, given, words",
    [
        (
            "adamw",
            "decouple=True",
            "decouple: adamw has no such setting; choose among betas, weight_decay, eps, amsgrad",
        ),
        (
            "adamw8bit",
            "amsgrad=True",
            "amsgrad: adamw8bit has no such setting; choose among betas, weight_decay, eps, min",
        ),
        ("prodigy", "lr=1", "lr: prodigy has no such setting; choose among betas, weight_decay, eps, beta3, decouple"),
        ("prodigy", "decouple=1", "decouple=1 must be True or False"),
        ("prodigy", "beta3=1.0", "beta3=1.0 must lie in [0, 1)"),
        ("prodigy", "slice_p=0", "slice_p=0 must be at least 1"),
        ("prodigy", "slice_p=1.5", "slice_p=1.5 must be a whole number"),
        ("adamw", "weight_decay='much'", "weight_decay=much must be a number"),
        ("adamw", "weight_decay=True", "weight_decay=True must be a number"),
        ("adamw", f"weight_decay=1{'0' * 400}", "must be finite"),
        ("adamw", "betas=0.9", "betas=0.9 must be 2 numbers, such as 0.9,0.99"),
        ("adamw", "betas=0.9,1.5", "must lie in [0, 1)"),
        ("adamw", "eps=open('x')", "is not a number, True, False, None or a tuple"),
        ("adamw", "eps", "'eps' is not KEY=VALUE"),
    ],
)
def test_a_wrong_setting_of_the_optimizer_is_one_line(optimizer, given, words):
    changed = GIVEN | {"optimizer": optimizer}
    for read in (
        lambda: of_flags(*as_words(changed), "--optimizer_args", given),
        lambda: pd.TrainingConfig(**changed, optimizer_args=[given]),
    ):
        with pytest.raises(pd.UserError) as refused:
            read()
        assert "--optimizer_args" in str(refused.value) and words in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_saved_config_with_prodigys_old_flags_is_read(tmp_path):
    old = "prodigy_beta3: null\nprodigy_decouple: false\nprodigy_safeguard_warmup: true\n"
    path = tmp_path / "training_config.yaml"
    path.write_text(old + "optimizer: adamw\n")  # which ignored them
    assert pd.TrainingConfig.load(tmp_path, **GIVEN).optimization.optimizer_args == {}
    path.write_text(old + "optimizer: prodigy\n")
    assert pd.TrainingConfig.load(tmp_path, **GIVEN).optimization.optimizer_args == {"decouple": False}


def test_groups_can_be_replaced_and_editors_see_every_keyword():
    config = pd.TrainingConfig(**GIVEN)
    changed = replace(config, data=replace(config.data, resolution=64))
    assert changed == pd.TrainingConfig(**GIVEN, resolution=64) != config
    shown = inspect.signature(pd.TrainingConfig).parameters
    assert set(shown) == {*config.flat(), "hub_token"} and shown["resolution"].default == 512


def test_sam_of_measures_may_be_given_with_a_method_that_has_none():
    given = {"segmentation_method": "insid3", "reference_image": "0.png", "reference_mask": "1.png", "sam": "vit_h"}
    given |= {"pretrained_model_name_or_path": "m", "instance_data_dir": "p", "instance_prompt": "a sks dog"}
    with pytest.raises(UserError, match="--sam has no effect"):
        TrainingConfig(**given)
    TrainingConfig(**given, dino_model="dino", validation_prompt="a sks dog")
