"""The package's names: all there, lazily, and the ones that type checkers see."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import persam_dreambooth as pd

HEAVY = ("torch", "transformers", "diffusers", "accelerate", "peft", "datasets", "gradio")
DIFFUSION = ("diffusers", "peft", "datasets", "gradio", "persam_dreambooth.training")


def loaded_by(code, names):
    """Which of these modules a fresh Python has loaded after some code."""
    code = f"import json, sys\n{code}\nprint(json.dumps([name for name in {names} if name in sys.modules]))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import persam_dreambooth as pd\nassert {'train', 'PerSAM'} <= set(dir(pd))\npd.TrainingConfig, pd.UserError"
    )
    assert loaded_by(code, HEAVY) == []


def test_segmentation_alone_loads_nothing_of_diffusion():
    code = "import persam_dreambooth as pd\npd.PerSAM, pd.Reference, pd.Subject, pd.Method, pd.read_photo"
    assert loaded_by(code, DIFFUSION) == []


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
    page = (Path(__file__).parents[1] / "docs" / "python-api.md").read_text()
    assert [name for name in pd.__all__ if f"{name}" not in page] == []
