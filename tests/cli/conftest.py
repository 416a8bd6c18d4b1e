"""Commands, run in this process, and their config files."""

import pytest

from persam_dreambooth.cli import main


@pytest.fixture
def config(tmp_path):
    """Write a config file; return the flags that name it."""

    def write(text):
        path = tmp_path / "flags.yaml"
        path.write_text(text, encoding="utf-8")
        return ["--config", str(path)]

    return write


@pytest.fixture
def error_of(capsys):
    """Run an invalid command; return its one-line error."""

    def run(*argv):
        code = main([str(word) for word in argv])
        output = capsys.readouterr()
        assert code == 2
        assert output.out == ""
        (line,) = output.err.splitlines()
        assert line.startswith("persam-dreambooth")
        assert "error: " in line
        return line

    return run


@pytest.fixture
def command(capsys):
    """Run a command; return its exit code, output and errors."""

    def run(*argv):
        code = main([str(word) for word in argv])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run
