"""Track what has changed in an album since a page last asked, so that an idle page is sent nothing twice."""

import threading
import time
from collections.abc import Sequence
from secrets import token_hex

from persam_dreambooth.review.album import PhotoState

TRUSTED = 30.0
"""Seconds for which folders with unchanged file states are assumed to be unchanged."""


class Changes:
    """Numbers the changes in one album; a page sends back the last number that it was told."""

    def __init__(self) -> None:
        self._counting, self._series = threading.Lock(), token_hex(4)
        self._number, self._gone = 0, 0
        self._glance: tuple[object, float] = (None, 0.0)
        self._photos: dict[str, tuple[tuple[str, bool, str], int]] = {}

    def is_told(self, glance: object, told: object) -> bool:
        """Return whether a page is up to date, as far as the file states (`glance`) show."""
        with self._counting:
            before, when = self._glance
            is_newest = told == f"{self._series}-{self._number}"
            return is_newest and before == glance and time.monotonic() - when < TRUSTED

    def since(self, states: Sequence[PhotoState], told: object, glance: object) -> tuple[list[PhotoState], bool, str]:
        """Return the photos that have changed since a page was told.

        Args:
            states: all photos as they are now.
            told: what an earlier call returned; anything else means that nothing was told.
            glance: file states from before `states` were read; None if they should be read again soon.

        Returns:
            The changed photos; whether the page keeps what it knows of the others; and the next value of `told`.
        """
        with self._counting:
            self._count(states)
            self._glance = glance, time.monotonic()
            series, _, number = told.partition("-") if isinstance(told, str) else ("", "", "")
            known = int(number) if series == self._series and number.isdecimal() and len(number) < 16 else -1
            keeps = max(0, self._gone) <= known <= self._number
            new = [state for state in states if not keeps or self._photos[state.photo.name][1] > known]
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
            self._photos = {name: mark for name, mark in self._photos.items() if name in there}
            self._gone, changed = next_number, True
        self._number += changed
