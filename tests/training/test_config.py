"""TrainingConfig from Python: its keywords are the flags, read as the command line reads them."""

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import persam_dreambooth as pd
from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.training.config import GROUPS
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


def test_groups_can_be_replaced_and_editors_see_every_keyword():
    config = pd.TrainingConfig(**GIVEN)
    changed = replace(config, data=replace(config.data, resolution=64))
    assert changed == pd.TrainingConfig(**GIVEN, resolution=64) != config
    shown = inspect.signature(pd.TrainingConfig).parameters
    assert set(shown) == {*config.flat(), "hub_token"} and shown["resolution"].default == 512
