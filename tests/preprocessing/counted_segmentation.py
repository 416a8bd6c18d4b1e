"""`persam-dreambooth segment` that also records which process segmented which photo, for test_processes.py."""

import os
import sys
import time
from pathlib import Path

from persam_dreambooth.cli import guarded
from persam_dreambooth.cli.segment import run
from persam_dreambooth.preprocessing import mask_store

add, open_folder = mask_store.MaskStore.add, mask_store.MaskStore.open


def counted(self, photo, found, with_instances):
    """Add an entry, and note it in this process's file."""
    with (Path(os.environ["NOTES"]) / os.environ.get("RANK", "0")).open("a") as notes:
        notes.write(f"{photo.path.name}\n")
    add(self, photo, found, with_instances)


def late(self, subject, settings):
    """Delay the creation of the folder, so that a process that does not wait for it fails."""
    time.sleep(1)
    open_folder(self, subject, settings)


if __name__ == "__main__":
    mask_store.MaskStore.add = counted
    mask_store.MaskStore.open = late
    sys.exit(guarded("segment", run, sys.argv[1:]))
