"""Workers of the data loader need open files: as many are allowed as there may be, or the run says so at once."""

import resource
import subprocess
import sys

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.runtime import open_files, workers
from tests.training.runs import SCRIPT, as_words


@pytest.fixture
def limit():
    """Sets the soft limit of open files, which the system lets anyone raise again."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda soft: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_soft_limit_is_raised_as_far_as_is_needed_and_no_other_is_touched(limit):
    limit(100)
    open_files.check(0)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 100
    open_files.check(4)
    raised = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert raised > 100
    limit(raised + 50)
    open_files.check(4)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == raised + 50


def with_few_files(number, flags, soft_only):
    """Run the training script with two workers, and so few open files allowed."""
    limits = f"-{'S' if soft_only else ''}n {number}"
    command = ["bash", "-c", f'ulimit {limits} && exec "$@"', "bash", sys.executable, str(SCRIPT)]
    words = as_words(flags | {"dataloader_num_workers": 2, "max_train_steps": 3, "report_to": "none"})
    return subprocess.run([*command, *words, "--use_lora"], capture_output=True, text=True, timeout=120)


def test_too_few_files_end_the_run_in_one_line_before_any_work(flags):
    run = with_few_files(40, flags, soft_only=False)
    assert run.returncode == 2 and "Traceback" not in run.stderr, run.stderr
    (line,) = [line for line in run.stderr.splitlines() if "error:" in line]
    assert "--dataloader_num_workers 2 may take" in line and "the system allows 40 (" in line


def test_a_low_soft_limit_is_no_obstacle(flags):
    """With 32 files torch loses batches and waits for them, or ends in a traceback."""
    run = with_few_files(32, flags, soft_only=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "error",
    [
        OSError(24, "Too many open files"),
        RuntimeError("Too many open files. Communication with the workers is no longer possible."),
    ],
)
def test_files_that_run_out_later_are_told_of_in_one_line(error):
    with pytest.raises(UserError, match="too many open files; raise `ulimit -n`"), workers.explained():
        raise error
