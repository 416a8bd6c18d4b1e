"""The package's names: all there, lazily, and the ones that type checkers see."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import persam_dreambooth as pd

HEAVY = ("torch", "transformers", "diffusers", "accelerate", "peft", "datasets", "gradio")


def test_importing_the_package_loads_nothing_heavy():
    """Nor do its light names; tests/segmentation/test_standalone.py is about those of segmentation."""
    code = f"""if True:
        import json, sys
        import persam_dreambooth as pd
        assert {{"train", "PerSAM"}} <= set(dir(pd))
        pd.TrainingConfig, pd.UserError
        print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == []


@pytest.mark.parametrize("name", pd.__all__)
def test_every_name_is_there_and_documented(name):
    assert getattr(pd, name).__doc__


def test_a_name_that_is_not_there_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'PerSam'"):
        pd.PerSam  # noqa: B018


def test_type_checkers_see_the_names_that_python_finds():
    tree = ast.parse(Path(pd.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: line.module.partition(".")[2] for line in block.body for alias in line.names}
    assert seen == pd._HOMES and {*seen, "__version__"} == set(pd.__all__)


def test_the_documentation_names_them_all():
    docs = Path(__file__).parents[1] / "docs"
    page = (docs / "python-api.md").read_text()
    reference = "\n".join(path.read_text() for path in (docs / "reference").glob("*.md"))
    assert [name for name in pd.__all__ if name not in page] == []
    shown = re.findall(r"^::: \S+\.(\w+)$", reference, re.MULTILINE)
    assert {*pd.__all__} - {*shown} == {"__version__"}
