"""`persam-dreambooth segment`, which also writes down which process segmented which photo; for test_processes.py."""

import os
import sys
import time
from pathlib import Path

from persam_dreambooth.cli import guarded
from persam_dreambooth.cli.segment import run
from persam_dreambooth.preprocessing import subject_folder

add, open_folder = subject_folder.SubjectFolder.add, subject_folder.SubjectFolder.open


def counted(self, photo, found, with_instances):
    """Add, and note it in a file of this process."""
    with (Path(os.environ["NOTES"]) / os.environ.get("RANK", "0")).open("a") as notes:
        notes.write(f"{photo.path.name}\n")
    add(self, photo, found, with_instances)


def late(self, subject, settings):
    """Make the folder late, so that a process that does not wait for it is found out."""
    time.sleep(1)
    open_folder(self, subject, settings)


if __name__ == "__main__":
    subject_folder.SubjectFolder.add = counted
    subject_folder.SubjectFolder.open = late
    sys.exit(guarded("segment", run, sys.argv[1:]))
