"""A manifest that is polled repeatedly: only lines added since the last look are read."""

import os
import threading
from collections.abc import Mapping
from pathlib import Path

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos.manifest import ManifestEntry, stream_lines


class LiveManifest:
    """The newest entry of each photo, by the stem of its name.

    Args:
        path: the manifest; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._reading = path, threading.Lock()
        self._file: os.stat_result | None = None
        self._entries: dict[str, ManifestEntry] = {}
        self._end, self._last = 0, b""

    def entries(self) -> Mapping[str, ManifestEntry]:
        """Return all current entries, the same objects as long as their lines stay; do not modify them.

        Raises:
            UserError: see `stream_lines`.
        """
        with self._reading:
            try:
                now = self._path.stat()
            except FileNotFoundError:
                self._file, self._entries = None, {}
                return self._entries
            if self._file is None or _state(now) != _state(self._file):
                self._read(now)
            return self._entries

    def get(self, photo: str) -> ManifestEntry | None:
        """Return the newest entry of a photo, by its path or name; errors as for `entries`."""
        return self.entries().get(Path(photo).stem)

    def _read(self, now: os.stat_result) -> None:
        start = self._end if self._has_only_grown(now) else 0
        self._file = None  # until all of it was read without error
        added = {}
        self._end, self._last = (start, self._last) if start else (0, b"")
        try:
            for line, entry in stream_lines(self._path, start):
                added[Path(entry.photo).stem] = entry
                if line.endswith(b"\n"):
                    self._end, self._last = self._end + len(line), line
        except UserError:
            if start == 0:
                raise
            self._read(now)  # from the beginning, so that the error has the line's number in the file
            return
        self._entries = {**self._entries, **added} if start else added
        self._file = now

    def _has_only_grown(self, now: os.stat_result) -> bool:
        """Return whether the file still begins with what was read of it."""
        before = self._file
        if before is None or before.st_ino != now.st_ino or now.st_size < self._end or not self._last:
            return False
        with self._path.open("rb") as file:
            file.seek(self._end - len(self._last))
            return file.read(len(self._last)) == self._last


def _state(file: os.stat_result) -> tuple[int, int, int]:
    return file.st_ino, file.st_size, file.st_mtime_ns
