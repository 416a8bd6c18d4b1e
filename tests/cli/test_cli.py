"""The command line: errors are one line with exit code 2, every flag has a help text, and help is fast."""

import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth import __version__
from persam_dreambooth.cli import VERBS, main
from persam_dreambooth.cli.convert import ConvertFlags
from persam_dreambooth.cli.evaluate import GROUPS as EVALUATE
from persam_dreambooth.cli.evaluate_checkpoints import CheckpointFlags
from persam_dreambooth.cli.evaluate_generation import GenerationReportFlags
from persam_dreambooth.cli.export import ExportFlags
from persam_dreambooth.cli.generate import GenerateFlags
from persam_dreambooth.cli.import_masks import ImportFlags
from persam_dreambooth.cli.review import GROUPS as REVIEW
from persam_dreambooth.cli.segment import GROUPS as SEGMENT
from persam_dreambooth.cli.segment_flags import SegmentFlags
from persam_dreambooth.cli.video import GROUPS as VIDEO
from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import Flags, flags_of
from persam_dreambooth.training.config import GROUPS
from tests.cli.parsed import REQUIRED

FLAGS = {
    "segment": SEGMENT,
    "review": REVIEW,
    "video": VIDEO,
    "train": GROUPS,
    "generate": [GenerateFlags],
    "convert": [ConvertFlags],
    "export": [ExportFlags],
    "import": [ImportFlags],
    "evaluate": EVALUATE,
    "evaluate generation": [GenerationReportFlags],
    "evaluate checkpoints": [CheckpointFlags],
}
EVERY_FLAG = [(verb, declared) for verb, groups in FLAGS.items() for declared in flags_of(*groups)]
BOUNDED = [(verb, declared) for verb, declared in EVERY_FLAG if declared.bounds]


# Help


@pytest.mark.parametrize("argv", [["--help"], ["-h"], []])
def test_help_lists_every_verb(capsys, argv):
    assert main(argv) == 0
    output = capsys.readouterr()
    for verb, what in VERBS.items():
        assert any(line.split() == [verb, *what.split()] for line in output.out.splitlines())
    assert output.err == ""


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_verb_lists_every_flag(capsys, verb):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    words = capsys.readouterr().out.split()
    declared = [declared for flagged, declared in EVERY_FLAG if flagged == verb]
    assert {flag.spelling for flag in declared if not flag.hidden} | {"--config"} <= set(words)
    assert not {f"--{name}" for flag in declared for name in flag.old_names} & set(words)
    assert not {flag.spelling for flag in declared if flag.hidden} & set(words)


def named(pairs):
    return [f"{verb}-{declared.name}" for verb, declared in pairs]


@pytest.mark.parametrize(("verb", "declared"), EVERY_FLAG, ids=named(EVERY_FLAG))
def test_every_flag_has_help_text(verb, declared):
    assert declared.help.strip()


@pytest.mark.parametrize(("verb", "declared"), BOUNDED, ids=named(BOUNDED))
def test_number_outside_bounds_is_refused(verb, declared):
    bounds = declared.bounds
    outside = [bounds.min - 1, *(limit for limit in (bounds.below,) if limit is not None)]
    outside += [bounds.max + 1] if bounds.max is not None else []
    group = next(group for group in FLAGS[verb] if declared.name in {flag.name for flag in flags_of(group)})
    for value in [*outside, float("nan"), float("inf")]:
        built = group.__new__(group)
        vars(built).update({flag.name: flag.default for flag in flags_of(group)} | {declared.name: value})
        with pytest.raises(UserError, match=rf"^--{declared.name} {value} must (be|lie) "):
            Flags.__post_init__(built)


@pytest.mark.parametrize(
    "verb", [[], *([verb] for verb in VERBS), ["evaluate", "generation"], ["evaluate", "checkpoints"]]
)
def test_help_fits_a_terminal_of_80_columns(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with suppress(SystemExit):
        main([*verb, "--help"])
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if len(line) > 80 and not line.startswith("    --")] == []
    assert not [line for line in text.splitlines() if line.endswith("-")]  # names such as sam-vit-huge stay whole


HEAVY = ("torch", "transformers", "diffusers", "accelerate", "peft", "datasets", "gradio")


@pytest.mark.parametrize(
    "argv", [*([verb] for verb in VERBS), ["evaluate", "perseg"], ["evaluate", "generation"]], ids=str
)
def test_help_imports_no_heavy_packages(argv):
    """Every verb answers --help in 0.2 s, measured on two cores; with torch it would be 3 to 8 s."""
    code = f"""if True:
        import sys
        from persam_dreambooth.cli import main
        try:
            main([*{argv}, "--help"])
        except SystemExit:
            print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr == "[]\n" and "usage:" in result.stdout


def test_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    "command",
    [[Path(sysconfig.get_path("scripts")) / "persam-dreambooth"], [sys.executable, "-m", "persam_dreambooth.cli"]],
    ids=["script", "module"],
)
def test_command_runs_as_script_and_module(command):
    result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{__version__}\n", "")
    result = subprocess.run([*command, "no-verb"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)


# Errors


def test_unknown_verb_is_refused_with_list_of_verbs(error_of):
    line = error_of("segmnt", "--images", "photos")
    assert "'segmnt'" in line
    assert all(verb in line for verb in VERBS)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["segment"], "--images"),
        (["generate"], "--model"),
        (["generate", "--model", "m"], "--prompt"),
        (["generate", "--model", "m", "--prompts_file", "no-such-file.txt"], "no-such-file.txt"),
        (["train"], "--pretrained_model_name_or_path"),
    ],
)
def test_missing_input_is_named(error_of, argv, expected):
    assert expected in error_of(*argv)


def test_ctrl_c_ends_with_130_and_one_line(capsys, monkeypatch):
    def interrupted(flags):
        raise KeyboardInterrupt

    monkeypatch.setattr(SegmentFlags, "__post_init__", interrupted)
    assert main(["segment", *REQUIRED]) == 130
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert "interrupted" in output.err


def test_ctrl_c_during_import_is_one_line():
    """An alarm replaces the key press, once torch starts to be imported, after the verb's flags are parsed."""
    code = """if True:
        import signal, sys
        from persam_dreambooth.cli import main

        class Alarm:
            def find_spec(self, name, path=None, target=None):
                if name == "torch":
                    signal.setitimer(signal.ITIMER_REAL, 0.1)

        signal.signal(signal.SIGALRM, signal.default_int_handler)
        sys.meta_path.insert(0, Alarm())
        sys.exit(main("generate --model m --prompt p".split()))
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 130 and "Traceback" not in run.stderr and "interrupted" in run.stderr


@pytest.mark.parametrize("verb", [("segment", *REQUIRED), ("generate", "--model", "{model}", "--prompt", "x")])
def test_unavailable_device_is_one_line(verb, error_of, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Image.new("RGB", (20, 20)).save("dog.jpg")
    Image.new("RGB", (20, 20)).save("photos/a.jpg")
    drawn = np.zeros((20, 20), dtype=np.uint8)
    drawn[5:15, 5:15] = 255
    Image.fromarray(drawn).save("dog.png")
    words = [word.format(model=models / "stable-diffusion") for word in verb]
    sam = ["--sam", str(models / "sam")] if words[0] == "segment" else []
    assert "the device banana cannot be used" in error_of(*words, *sam, "--device", "banana")
    assert not Path("out").exists()
