"""The command line: `persam-dreambooth VERB`, with one file per verb."""

import logging
import sys
from collections.abc import Callable
from importlib import import_module
from io import TextIOWrapper

from persam_dreambooth import __version__
from persam_dreambooth.errors import Stopped, UserError, first_line, is_first_process, is_out_of_memory, printable

VERBS = {
    "segment": "find the subject of one reference photo in a folder; writes masks",
    "review": "see, correct and approve masks in the browser; follow training runs",
    "video": "follow subjects through a video; writes a mask for each frame",
    "train": "train DreamBooth on photos and masks, as train_dreambooth_persam.py",
    "generate": "generate images with a trained model",
    "convert": "convert a LoRA, LoHa or LoKr for A1111, ComfyUI and others",
    "export": "export photos and masks for OneTrainer, kohya and other trainers",
    "import": "import photos and masks of other trainers, to train on them here",
    "evaluate": "score trained models, or segmentation on a public benchmark",
}
MODULES = {"import": "import_masks"}
"""Modules of verbs that are Python keywords; other modules are named as their verbs."""

NO_MEMORY = "out of memory; use a smaller model, batch or picture, or close other programs"


def main(argv: list[str] | None = None) -> int:
    """Run a verb; return the exit code: 0, 2 for user errors, 128 + signal number after a signal."""
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
    """Return a function that imports and runs a verb; the import takes seconds, and must happen inside `guarded`."""

    def run(program: str, argv: list[str]) -> None:
        import_module(f"persam_dreambooth.cli.{module}").run(program, argv)

    return run


def guarded(program: str, run: Callable[[str, list[str]], None], argv: list[str]) -> int:
    """Run a verb; errors that the user can fix become one line on stderr and exit code 2."""
    _make_streams_safe()
    try:
        run(program, argv)
    except UserError as error:
        unsaid = is_out_of_memory(error.__cause__) and "out of memory" not in str(error)
        return _fail(program, NO_MEMORY if unsaid else error)
    except OSError as error:
        advice = "; check the path, its permissions and the free space" if error.errno else ""
        return _fail(program, f"{first_line(error)}{advice}")
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


def _fail(program: str, error: object) -> int:
    print(f"{program}: error: {printable(str(error))}", file=sys.stderr)
    return 2


def _make_streams_safe() -> None:
    """Escape output, since file names may hold any bytes, such as invalid UTF-8 and terminal control sequences."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort:
        logging.lastResort.setFormatter(_OneLine())  # prints warnings if no handler is set up


class _OneLine(logging.Formatter):
    """Formatter for the text of a warning only, escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text to print."""
        return printable(super().format(record))


def usage() -> str:
    """Return the text of `persam-dreambooth --help`."""
    lines = [f"  {verb:<10} {what}" for verb, what in VERBS.items()]
    return "\n".join(
        [
            "usage: persam-dreambooth VERB [flags]",
            "",
            "Teach a text-to-image model your subject, and not the sofa it lies on.",
            "",
            *lines,
            "",
            "You need a folder with 3 to 5 photos of the subject. Mark it in one of them,",
            "with a mask for `segment` or by clicks in `review`; then `train` and `generate`.",
            "",
            "Help for a verb: persam-dreambooth segment --help",
        ]
    )
