"""Print the differences between our losses and the recorded ones of diffusers' scripts, case by case.

PYTHONPATH=examples python -m tests.parity.compare_diffusers [case...]
"""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from accelerate.state import AcceleratorState

from persam_dreambooth.cli import main
from tests.parity.diffusers_cases import CASES, logged_losses, prepare
from tests.parity.record_diffusers import RECORD


def compare(names: list[str]) -> None:
    """Compare the given cases, or all."""
    recorded = json.loads(RECORD.read_text())["losses"]
    for name in names or CASES:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            prepare(Path(folder), CASES[name])
            with contextlib.redirect_stdout(io.StringIO()):
                assert main(["train", *CASES[name].our_flags]) == 0
            difference = np.abs(np.subtract(logged_losses(Path("output")), recorded[name])).max()
        AcceleratorState._reset_state(reset_partial_state=True)
        print(f"{name:24} {difference:.1e}  (losses from {min(recorded[name]):.2f} to {max(recorded[name]):.2f})")


if __name__ == "__main__":
    compare(sys.argv[1:])
