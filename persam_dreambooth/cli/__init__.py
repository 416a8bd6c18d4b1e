"""The command line: `persam-dreambooth VERB`, one file a verb."""

import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module
from io import TextIOWrapper

from persam_dreambooth import __version__
from persam_dreambooth.errors import Stopped, UserError, is_out_of_memory, printable

VERBS = {
    "segment": "find the subject of one reference photo in a whole folder; writes masks",
    "review": "a page in the browser to see, correct and approve the masks, and to look at finished runs",
    "video": "follow subjects through a video; writes a mask per frame and an overlay video",
    "train": "DreamBooth on those photos and masks (the same as train_dreambooth_persam.py)",
    "generate": "pictures from what training saved",
    "convert": "LoRA weights for A1111, ComfyUI and others that read kohya's format",
    "export": "photos and masks as other trainers want them: OneTrainer, kohya, COCO, cut-outs, ...",
    "import": "other trainers' photos and masks, to train on here",
    "evaluate": "score what trained models draw (generation), or PerSAM on a public benchmark",
}
MODULES = {"import": "import_masks"}
"""Of verbs that are words of Python; the others have their own names."""

NO_MEMORY = "out of memory; take a smaller model, batch or picture, or close other programs"


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0, 2 for the user's mistakes, 128 + its number after a signal."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    if argv[0] not in VERBS:
        print(f"persam-dreambooth: error: no verb {argv[0]!r}; choose one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    return guarded(f"persam-dreambooth {argv[0]}", verb(MODULES.get(argv[0], argv[0])), argv[1:])


def verb(module: str) -> Callable[[str, list[str]], None]:
    """What runs a verb, whose imports take seconds: only when asked to, and where Ctrl-C is understood."""

    def run(program: str, argv: list[str]) -> None:
        import_module(f"persam_dreambooth.cli.{module}").run(program, argv)

    return run


def guarded(program: str, run: Callable[[str, list[str]], None], argv: list[str]) -> int:
    """Run a verb and turn what the user can mend into one line on stderr and exit code 2."""
    _make_streams_safe()
    try:
        run(program, argv)
    except UserError as error:
        untold = is_out_of_memory(error.__cause__) and "out of memory" not in str(error)
        return _fail(program, NO_MEMORY if untold else error)
    except OSError as error:
        advice = "; check the path, its permissions and the free space" if error.errno else ""
        return _fail(program, f"{error}{advice}")
    except Stopped as stopped:
        if is_first_process():
            print(f"{program}: {stopped}", file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print(f"{program}: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail(program, NO_MEMORY)
    return 0


def is_first_process() -> bool:
    """Return whether this process, of several that a launcher started, is the one that speaks."""
    return os.environ.get("RANK", "0") == "0"


def _fail(program: str, error: object) -> int:
    print(f"{program}: error: {printable(str(error))}", file=sys.stderr)
    return 2


def _make_streams_safe() -> None:
    """Names of files may hold anything: bytes that are no UTF-8, and sequences that a terminal obeys."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort:
        logging.lastResort.setFormatter(_OneLine())  # what prints warnings where no handler is set up


class _OneLine(logging.Formatter):
    """A warning's text alone, escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """The text to print."""
        return printable(super().format(record))


def usage() -> str:
    """What `persam-dreambooth --help` prints."""
    lines = [f"  {verb:<10} {what}" for verb, what in VERBS.items()]
    return "\n".join(
        [
            "usage: persam-dreambooth VERB [flags]",
            "",
            "Teach a text-to-image model your subject, and not the sofa it lies on.",
            "",
            *lines,
            "",
            "Each verb explains itself: persam-dreambooth segment --help",
        ]
    )
