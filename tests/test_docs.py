"""Pages in docs/: flags in their commands exist, and the table of recipes matches the recipes."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml

from persam_dreambooth.cli import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
LAUNCHERS = r"^\S+=\S+ |accelerate launch (--\S+ \S+ )*|torchrun (--\S+ \S+ )*|python "


def commands(page: Path) -> list[list[str]]:
    """Return the words of every project command in the page's bash blocks, verb first."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines = [
        re.sub(LAUNCHERS, "", line).replace("train_dreambooth_persam.py", "persam-dreambooth train") for line in lines
    ]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("persam-dreambooth ")]


@pytest.fixture
def flags_of(capsys):
    """Return the flags listed by `--help` of a verb."""

    def listed(*verb: str) -> set[str]:
        with pytest.raises(SystemExit):
            main([*verb, "--help"])
        return set(re.findall(r"--\w+", capsys.readouterr().out))

    return cache(listed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_flag_in_command_exists(page, flags_of):
    for verb, *words in commands(page):
        words = [verb, *words]
        count = 2 if verb == "evaluate" else 1
        unknown = {word for word in words if word.startswith("--")} - flags_of(*words[:count])
        assert not unknown, " ".join(words)


def test_pages_have_commands():
    verbs = {words[0] for page in PAGES for words in commands(page)}
    assert {"segment", "review", "train", "generate", "evaluate", "export", "import", "convert"} <= verbs


def test_recipe_table_matches_recipes():
    table = (ROOT / "docs/recipes.md").read_text()
    rows = {
        row[0]: row[1:]
        for row in re.findall(r"^\| `(\S+\.yaml)` \| `(.+)` \| (.+) \| (.+) \| (.+) \| (.+) \|$", table, re.M)
    }
    files = {path.name: path.read_text() for path in (ROOT / "configs").glob("*.yaml")}
    assert rows.keys() == files.keys()
    for name, text in files.items():
        recipe = yaml.safe_load(text)
        trained = f"LoRA, rank {recipe['rank']}" if recipe.get("use_lora") else "all weights"
        base, steps, side = recipe["pretrained_model_name_or_path"], recipe["max_train_steps"], recipe["resolution"]
        rate = re.search(r"^learning_rate: (\S+)", text, re.M)[1]  # as text, since YAML reads 1e-4 as a string
        assert rows[name] == (base, trained, rate, str(steps), str(side))


def test_files_named_for_contributors_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = set(re.findall(r"`((?:persam_dreambooth|tests|examples|configs|docs)/[^`\s]*)`", text))
    missing = {path for path in paths if not (ROOT / path).exists()}
    assert len(paths) > 20 and missing == {"persam_dreambooth/training/families/new.py"}
    named = re.findall(r"`(\w+)` (?:of|in) `(\S+\.py)`", " ".join(text.split()))
    assert named and not [
        (name, path) for name, path in named if not re.search(rf"\b{name}\b", (ROOT / path).read_text())
    ]
