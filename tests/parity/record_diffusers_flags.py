"""Record the flags of diffusers' DreamBooth scripts, for `test_diffusers_flags.py` to compare ours with.

    python -m tests.parity.record_diffusers_flags path/to/diffusers

reads `examples/dreambooth/train_*.py` of the checkout's HEAD, runs nothing, and writes
`tests/parity/data/diffusers_flags.json`: the commit, and each script's flags in a line.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

RECORD = Path(__file__).parent / "data" / "diffusers_flags.json"
FOLDER = "examples/dreambooth/"


def flags_in(source: str) -> list[str]:
    """Return the names, sorted, in a script's calls of `add_argument`."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    added = (call for call in calls if getattr(call.func, "attr", "") == "add_argument")
    words = (part.value for call in added for part in call.args if isinstance(part, ast.Constant))
    return sorted(word.removeprefix("--") for word in words if word.startswith("--"))


def record(checkout: str) -> None:
    """Write the flags of every training script."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", checkout, *words], check=True, capture_output=True, text=True).stdout

    names = git("ls-tree", "--name-only", "HEAD", FOLDER).split()
    scripts = {name.removeprefix(FOLDER): git("show", f"HEAD:{name}") for name in names if name.endswith(".py")}
    flags = {name: " ".join(flags_in(source)) for name, source in scripts.items() if name.startswith("train_")}
    commit = git("rev-parse", "HEAD").strip()
    RECORD.write_text(json.dumps({"commit": commit, "scripts": flags}, indent=1) + "\n")


if __name__ == "__main__":
    record(sys.argv[1])
