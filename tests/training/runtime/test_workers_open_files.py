"""Data loader workers need open files: the soft limit is raised as far as needed, or the run fails immediately."""

import resource
import subprocess
import sys

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.runtime import workers
from tests.training.runs import SCRIPT, as_words


@pytest.fixture
def limit():
    """Set the soft limit of open files, which any process may raise again."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda soft: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_soft_limit_is_raised_only_as_far_as_needed(limit):
    limit(100)
    workers.check_open_files(0)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 100
    workers.check_open_files(4)
    raised = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert raised > 100
    limit(raised + 50)
    workers.check_open_files(4)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == raised + 50


def run_with_file_limit(number, flags, soft_only):
    """Run the training script with two workers and at most N open files."""
    limits = f"-{'S' if soft_only else ''}n {number}"
    command = ["bash", "-c", f'ulimit {limits} && exec "$@"', "bash", sys.executable, str(SCRIPT)]
    words = as_words(flags | {"dataloader_num_workers": 2, "max_train_steps": 3, "report_to": "none"})
    return subprocess.run([*command, *words, "--use_lora"], capture_output=True, text=True, timeout=120)


def test_too_low_hard_limit_is_refused_before_any_work(flags):
    run = run_with_file_limit(40, flags, soft_only=False)
    assert run.returncode == 2 and "Traceback" not in run.stderr, run.stderr
    (line,) = [line for line in run.stderr.splitlines() if "error:" in line]
    assert "--dataloader_num_workers 2 may take" in line and "the system allows 40 (" in line


def test_low_soft_limit_is_raised(flags):
    """With 32 files torch loses batches and hangs, or ends in a traceback."""
    run = run_with_file_limit(32, flags, soft_only=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "error",
    [
        OSError(24, "Too many open files"),
        RuntimeError("Too many open files. Communication with the workers is no longer possible."),
    ],
)
def test_running_out_of_files_later_is_reported_in_one_line(error):
    with pytest.raises(UserError, match="too many open files; raise `ulimit -n`"), workers.explained():
        raise error
