"""The table of trainers: configurations that each trainer's own format reads back, whatever the folder's name."""

import ast
import json
import tomllib

import pytest
import yaml

from persam_dreambooth.formats import CONVENTIONS
from persam_dreambooth.formats.table import quoted

EVERY = pytest.mark.parametrize("trainer", CONVENTIONS)


NAMES = ["Собака", "犬 🐕", "a\nb", "\x1b[2Jred", "a\u202egpj", "a'b\"c\\d$photos", "-rf", "#x: y", "\x7f\x85"]


@pytest.mark.parametrize("name", NAMES)
def test_quoted_path_is_one_string_to_every_reader(name):
    for read in (json.loads, yaml.safe_load, ast.literal_eval, lambda text: tomllib.loads(f"a = {text}")["a"]):
        assert read(quoted(name)) == name


def read_config(name, text):
    """Read a configuration as its trainer does, by the suffix of its file's name."""
    if name.endswith(".py"):
        return [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    return {"toml": tomllib.loads, "yaml": yaml.safe_load, "json": json.loads}[name.rpartition(".")[2]](text)


def strings_in(value):
    """Yield every string in nested lists and dictionaries."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings_in(part)


@EVERY
def test_configuration_names_the_folders_of_its_layout(trainer, tmp_path):
    convention, folder = CONVENTIONS[trainer], tmp_path / "a'b\"c\\d$photos\u2028"
    assert bool(convention.config) == bool(convention.snippet)
    if not convention.config:
        assert convention.configured(folder) == ""
        return
    layout = convention.layout
    indexes = {"invoke": "data.jsonl", "imagefolder": "", "coco": "instances.json"}
    names = [indexes[trainer]] if trainer in indexes else filter(None, (layout.photos, layout.masks))
    found = strings_in(read_config(convention.config, convention.configured(folder)))
    assert {text for text in found if "a'b" in text} == {str(folder / name) for name in names}


def test_masks_go_beside_photos_only_under_names_of_their_own(tmp_path):
    beside = {name: each for name, each in CONVENTIONS.items() if each.beside}
    assert beside
    for convention in beside.values():
        assert convention.layout.photos == convention.layout.masks and convention.layout.postfix
        found = json.loads(convention.configured_beside(tmp_path))
        assert str(tmp_path) in strings_in(found)
