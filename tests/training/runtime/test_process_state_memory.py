"""Out of memory is reported in one line that names the flags that would help and are not set."""

import resource
import sys
from pathlib import Path

import pytest

from persam_dreambooth.cli import main
from tests.forks import Fork
from tests.training.runs import as_words


def train_in_little_memory(words):
    """Train with 100 MB more than what is taken up by the imports, which the fork server has made."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 100 * 2**20, -1))
    return main(["train", *words])


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
def test_out_of_memory_names_flags_that_help(flags):
    flags = flags | {"resolution": 512, "train_batch_size": 3, "report_to": "none"}
    run = Fork(train_in_little_memory, [*as_words(flags), "--gradient_checkpointing"])
    printed = run.communicate(timeout=300)[1].decode()
    assert run.returncode == 2, printed[-3000:]
    (line,) = [line for line in printed.splitlines() if "error:" in line]
    assert "out of memory; to need less, use: " in line and "--use_lora" in line and "--resolution 256" in line
    assert "--train_batch_size 1 --gradient_accumulation_steps 3" in line
    assert "--gradient_checkpointing" not in line and "Traceback" not in printed
