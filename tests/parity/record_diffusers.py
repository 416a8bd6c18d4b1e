"""Record the losses of diffusers' own DreamBooth scripts, for `test_diffusers_losses.py` to compare ours with.

    python -m tests.parity.record_diffusers path/to/diffusers/examples/dreambooth

runs every case of `diffusers_cases.py`, or those listed after the path, in diffusers' script and writes
`tests/parity/data/diffusers_losses.json`. Needs the `dev` extra and a diffusers checkout.
"""

import json
import os
import platform
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

RECORD = Path(__file__).parent / "data" / "diffusers_losses.json"


def record(scripts: Path, names: list[str]) -> None:
    """Run the given cases, or all, each in its own process, and update their recordings."""
    import accelerate
    import diffusers
    import peft
    import torch
    import transformers

    from tests.parity.diffusers_cases import CASES, logged_losses, prepare

    losses = json.loads(RECORD.read_text())["losses"] if names else {}
    for name, case in [(name, CASES[name]) for name in names or CASES]:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), case)
            command = [sys.executable, str(Path(__file__).resolve()), "--single", str(scripts.resolve() / case.script)]
            subprocess.run([*command, *case.all_flags, *case.theirs], cwd=folder, check=True)
            losses[name] = logged_losses(Path(folder) / "output")
            print(name, losses[name][:3])
    versions = {module.__name__: module.__version__ for module in (torch, diffusers, transformers, accelerate, peft)}
    command = "python -m tests.parity.record_diffusers path/to/diffusers/examples/dreambooth"
    made = {"command": command, "machine": platform.machine(), "versions": versions}
    RECORD.write_text(json.dumps({"made": made, "losses": losses}, indent=1) + "\n")


def run_script(script: str, flags: list[str]) -> None:
    """Run a script as `__main__`, with photos and batches in an order that does not depend on the script.

    Folder listings are sorted, since the scripts take photos in file system order. The newest scripts draw the order
    of batches from Python's generator and leave out incomplete ones; here torch's data loader draws it, as in the
    older ones and ours.
    """
    _shuffle_by_torch()
    listed = Path.iterdir
    Path.iterdir = lambda self: iter(sorted(listed(self)))  # type: ignore[method-assign]
    sys.argv = [script, *flags]
    os.environ["HF_HUB_OFFLINE"] = "1"
    runpy.run_path(script, run_name="__main__")


def _shuffle_by_torch() -> None:
    """Replace the scripts' sampler of batches by the data loader's own."""
    from torch.utils.data import DataLoader

    init = DataLoader.__init__

    def init_shuffled(self, dataset, *args, batch_sampler=None, **settings):  # type: ignore[no-untyped-def]
        if type(batch_sampler).__name__ == "BucketBatchSampler":
            settings |= {"batch_size": batch_sampler.batch_size, "shuffle": True}
            batch_sampler = None
        init(self, dataset, *args, batch_sampler=batch_sampler, **settings)

    DataLoader.__init__ = init_shuffled  # type: ignore[method-assign]


if __name__ == "__main__":
    if sys.argv[1] == "--single":
        run_script(sys.argv[2], sys.argv[3:])
    else:
        record(Path(sys.argv[1]), sys.argv[2:])
