"""`persam-dreambooth segment` that also records which process segmented which photo, for test_processes.py."""

import os
import sys
import time
from pathlib import Path

from persam_dreambooth.cli import guarded
from persam_dreambooth.cli.segment import run
from persam_dreambooth.preprocessing.mask_store import MaskStore
from persam_dreambooth.preprocessing.mask_writer import MaskWriter

add, open_folder = MaskWriter.add, MaskStore.open


def counted(self, photo, found):
    """Add an entry, and note a segmented photo in this process's file."""
    if found is not None:
        with (Path(os.environ["NOTES"]) / os.environ.get("RANK", "0")).open("a") as notes:
            notes.write(f"{photo.path.name}\n")
    add(self, photo, found)


def late(self, subject):
    """Delay the creation of the folder, so that a process that does not wait for it fails."""
    time.sleep(1)
    open_folder(self, subject)


def segment(words):
    MaskWriter.add = counted
    MaskStore.open = late
    return guarded("segment", run, words)


if __name__ == "__main__":
    sys.exit(segment(sys.argv[1:]))
