"""What has changed in an album since a page last asked, so that an idle page is told nothing again."""

import threading
import time
from collections.abc import Sequence
from secrets import token_hex

from persam_dreambooth.review.album import PhotoState

TRUSTED = 30.0
"""Seconds for which folders that look the same at a glance are taken for the same."""


class Changes:
    """Numbers the changes of one album; a page names the last number that it was told."""

    def __init__(self) -> None:
        self._counting, self._series = threading.Lock(), token_hex(4)
        self._number, self._gone = 0, 0
        self._glance: tuple[object, float] = (None, 0.0)
        self._photos: dict[str, tuple[tuple[str, bool, str], int]] = {}

    def is_told(self, glance: object, told: object) -> bool:
        """Whether a page was told all that there is, as far as a glance at the folders shows."""
        with self._counting:
            before, when = self._glance
            is_newest = told == f"{self._series}-{self._number}"
            return is_newest and before == glance and time.monotonic() - when < TRUSTED

    def since(self, states: Sequence[PhotoState], told: object, glance: object) -> tuple[list[PhotoState], bool, str]:
        """The photos that are others than a page was told.

        Args:
            states: all photos as they are now.
            told: what an earlier call returned; anything else means that nothing was told.
            glance: at the folders, from before `states` were read; None if they are to be read again soon.

        Returns:
            Those photos; whether the page keeps what it knows of the others; and what to say next time.
        """
        with self._counting:
            self._count(states)
            self._glance = glance, time.monotonic()
            series, _, number = told.partition("-") if isinstance(told, str) else ("", "", "")
            known = int(number) if series == self._series and number.isdecimal() and len(number) < 16 else -1
            keeps = max(0, self._gone) <= known <= self._number
            new = [one for one in states if not keeps or self._photos[one.photo.name][1] > known]
            return new, keeps, f"{self._series}-{self._number}"

    def _count(self, states: Sequence[PhotoState]) -> None:
        next_number, changed = self._number + 1, False
        for state in states:
            mark = state.version, state.can_undo, state.status
            before = self._photos.get(state.photo.name)
            if before is None or before[0] != mark:
                self._photos[state.photo.name] = mark, next_number
                changed = True
        if len(self._photos) > len(states):
            there = {state.photo.name for state in states}
            self._photos = {name: one for name, one in self._photos.items() if name in there}
            self._gone, changed = next_number, True
        self._number += changed
