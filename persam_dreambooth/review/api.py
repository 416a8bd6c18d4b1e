"""The page's API: one method per request, dictionaries in and out, errors as one line."""

import threading
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.photos import files
from persam_dreambooth.photos.class_suggestion import ClassSuggestion
from persam_dreambooth.preprocessing import SegmentationJob
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.preprocessing.review_edits import Conflict
from persam_dreambooth.review.album import Album, Changes, PhotoState
from persam_dreambooth.review.alternatives import Alternatives
from persam_dreambooth.review.clicks import Clicker, Stroke, painted, read_strokes
from persam_dreambooth.review.jobs import Search
from persam_dreambooth.review.training_view import TrainingView
from persam_dreambooth.review.workspace import Workspace
from persam_dreambooth.segmentation.proposals import PointGrid
from persam_dreambooth.text_files import readable

Answer = dict[str, Any]
SHOWN = (
    "source",
    "score",
    "presence",
    "probability",
    "reason",
    "review",
    "points",
    "point_labels",
    "warnings",
    "error",
)
"""Fields of a manifest line that are sent to the page."""


def _in_words(ask: Callable[..., Answer]) -> Callable[..., Answer]:
    """Return errors as a one-line `error`, with `conflict` if the photo has changed in the meantime."""

    @wraps(ask)
    def answer(self: "Api", question: Answer) -> Answer:
        try:
            return ask(self, question)
        except Conflict as error:
            return {"error": readable(str(error)), "conflict": True}
        except UserError as error:
            return {"error": readable(str(error))}
        except OSError as error:
            return {"error": f"{readable(first_line(error))}; check permissions and the free space"}
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
            return {"error": "the server does not understand this page; reload it"}
        except RuntimeError as error:  # torch's, such as memory that ran out
            words = readable(" ".join(str(error).split()))[:300]
            return {"error": f"the server could not do that ({words})"}

    return answer


class Api:
    """Answers the page's requests; every answer about a photo has its newest state.

    Args:
        workspace: the folders.
        clicker: turns clicks into masks.
        job: returns the job that finds the subject of these references in an album.
        alternatives: finds other masks to choose from; None for those of the clicker's SAM.
    """

    def __init__(
        self,
        workspace: Workspace,
        clicker: Clicker,
        job: Callable[[Album, tuple[ReferenceFiles, ...]], SegmentationJob],
        alternatives: Alternatives | None = None,
    ) -> None:
        self._workspace, self._clicker, self._job = workspace, clicker, job
        self._alternatives = alternatives or Alternatives(clicker, PointGrid)
        self._albums: dict[str, tuple[Album, Search]] = {}
        self._changes: dict[str, Changes] = defaultdict(Changes)
        self._opening = threading.Lock()

    @_in_words
    def overview(self, question: Answer) -> Answer:
        """Return the photos of an `album` that changed `since` an earlier answer, and the progress of the search.

        All photos are returned unless the page `keeps` what it has. If any has changed, `order` names all, the worst
        first, and `not_shown` the photos that are links out of the folder, or whose names are not UTF-8.
        `looks_like` is the class suggestion in words, if there is one.
        """
        album, search = self._album(question)
        running = search.running  # read first: once a search has ended, all its masks are there
        changes, told, glance = self._changes[str(question["album"])], question.get("since"), album.glance()
        if changes.is_told(glance, told):
            answer: Answer = {"photos": [], "keeps": True, "since": told}
        else:
            states = album.states()
            new, keeps, since = changes.since(states, told, glance if album.compared else None)
            answer = {"photos": [self._shown(state) for state in new], "keeps": keeps, "since": since}
            if new:
                answer |= {"order": [state.photo.name for state in states], "not_shown": album.not_shown()}
        suggestion = ClassSuggestion.read(album.output)
        answer["looks_like"] = suggestion.words if suggestion else ""
        return answer | {"running": running, "stopped": search.stopped, "search_error": search.error}

    @_in_words
    def look(self, question: Answer) -> Answer:
        """Return one `photo` with its size, after checking that it can be read."""
        return self._photo(question)

    @_in_words
    def draw(self, question: Answer) -> Answer:
        """Apply `strokes` to a `photo`: without a mask it becomes a reference, otherwise its mask is corrected."""
        album, _ = self._album(question)
        photo, strokes = album.photo(question["photo"]), read_strokes(question["strokes"])
        state = album.state(photo.name)
        if not strokes:
            raise UserError("nothing is drawn; click on the subject, draw a box around it, or paint on it")
        if not state.has_mask:
            mask = self._clicker.first(photo, strokes)
            clicks = [(*stroke.points[0], stroke.label) for stroke in strokes if stroke.kind == "point"]
            changes = _role(state) | _in_the_manifest(clicks)
            album.edits.correct(photo, mask, question["seen"], changes)
        else:
            self._correct(album, state, strokes, question["seen"])
        return self._photo(question)

    def _correct(self, album: Album, state: PhotoState, strokes: list[Stroke], seen: str) -> None:
        entry, photo = state.entry, state.photo
        assert entry is not None
        mask = files.read_mask(album.edits.mask_path(photo))
        clicks = [(float(x), float(y), label) for (x, y), label in zip(entry.points, entry.point_labels, strict=True)]
        changes = _role(state)
        for stroke in strokes:
            if stroke.kind == "box":
                raise UserError("a box is for photos without a mask; click, or use the brush")
            if stroke.kind == "point":
                clicks.append((*stroke.points[0], stroke.label))
                mask, changes["score"] = self._clicker.again(photo, mask, clicks)
                changes |= _in_the_manifest(clicks)
            else:
                mask = painted(mask, [stroke])
        album.edits.correct(photo, mask, seen, changes)

    @_in_words
    def alternatives(self, question: Answer) -> Answer:
        """Return other masks for a `photo`, the most similar to the subject first: `key`, `picture` and `words`."""
        album, _ = self._album(question)
        state = album.state(question["photo"])
        current = files.read_mask(album.edits.mask_path(state.photo)) if state.has_mask else None
        found = self._alternatives.find(state.photo, current, album.references())
        scales = [
            f"score {other.proposal.score:.2f}" if other.similarity is None else f"similarity {other.similarity:.2f}"
            for other in found
        ]
        offered = [
            {"key": other.key, "picture": _data_url(other.picture), "words": words}
            for other, words in zip(found, scales, strict=True)
        ]
        return {"alternatives": offered}

    @_in_words
    def take(self, question: Answer) -> Answer:
        """Make one of its `alternatives` the mask of a `photo`; without a mask before, it becomes a reference."""
        album, _ = self._album(question)
        state = album.state(question["photo"])
        taken = self._alternatives.take(state.photo, str(question["key"]))
        clicks = [] if taken.point is None else [(*taken.point, 1)]
        changes = _role(state) | _in_the_manifest(clicks) | {"score": taken.score}
        album.edits.correct(state.photo, taken.mask(), question["seen"], changes)
        return self._photo(question)

    @_in_words
    def judge(self, question: Answer) -> Answer:
        """Set the `verdict` on a `photo`: approved, excluded or neither."""
        album, _ = self._album(question)
        if question["verdict"] not in ("approved", "excluded", None):
            raise UserError(f"{question['verdict']!r} is not a verdict; reload the page")
        album.edits.judge(album.state(question["photo"]).photo, question["verdict"], question["seen"])
        return self._photo(question)

    @_in_words
    def refer(self, question: Answer) -> Answer:
        """Make a `photo` a reference, or stop using it as one: `reference`."""
        album, _ = self._album(question)
        album.edits.refer(album.state(question["photo"]).photo, bool(question["reference"]), question["seen"])
        return self._photo(question)

    @_in_words
    def undo(self, question: Answer) -> Answer:
        """Undo the last decision on a `photo`."""
        album, _ = self._album(question)
        album.edits.undo(album.state(question["photo"]).photo, question["seen"])
        return self._photo(question)

    @_in_words
    def training(self, question: Answer) -> Answer:
        """Return what training sees of a `photo` with the flags in `view`, as a data URL."""
        album, _ = self._album(question)
        state = album.state(question["photo"])
        if not state.has_mask:
            raise UserError("there is no mask yet; draw one first")
        picture, words = TrainingView(**question["view"]).draw(state.photo, album.edits.mask_path(state.photo))
        return {"picture": _data_url(picture), "words": words}

    @_in_words
    def search(self, question: Answer) -> Answer:
        """Start the search for the subject in all photos that nobody has reviewed."""
        self._album(question)[1].start()
        return {"running": True}

    @_in_words
    def stop(self, question: Answer) -> Answer:
        """Stop the search after the current photo."""
        search = self._album(question)[1]
        search.stop()
        return {"running": search.running}

    def _album(self, question: Answer) -> tuple[Album, Search]:
        name = str(question["album"])
        with self._opening:  # all pages share one search and one undo history
            if name not in self._albums:
                self._albums[name] = self._open(name)
            return self._albums[name]

    def _open(self, name: str) -> tuple[Album, Search]:
        folders = self._workspace.albums()
        if name not in folders:
            raise UserError(f"there is no folder {name!r} with photos in {self._workspace.images}; reload the page")
        album = Album(folders[name], self._workspace.output_of(name))
        return album, Search(album, self._job)

    def _photo(self, question: Answer) -> Answer:
        album, _ = self._album(question)
        state = album.state(question["photo"])
        width, height = files.read_photo(state.photo).size
        return {"photo": self._shown(state) | {"width": width, "height": height}}

    def _shown(self, state: PhotoState) -> Answer:
        entry = state.entry
        has_mask = state.has_mask
        words: Answer = {"name": state.photo.name, "version": state.version, "status": state.status}
        words |= {"can_undo": state.can_undo, "has_mask": has_mask, "url": self._url(state.photo)}
        if entry is not None:
            words |= {name: getattr(entry, name) for name in SHOWN}
        if state.is_changed:
            words |= {"points": [], "point_labels": []}  # those of the earlier photo
        if entry is not None and has_mask:
            output = self._workspace.output_of(self._name(state.photo))
            words["mask_url"] = self._url(output / "masks" / f"{state.photo.stem}.png")
            overlay = output / "overlays" / f"{state.photo.stem}.jpg"
            words["overlay_url"] = self._url(overlay) if entry.overlay else words["url"]  # imports have no overlays
        return words

    def _name(self, photo: Path) -> str:
        return photo.parent.relative_to(self._workspace.images).as_posix()

    def _url(self, path: Path) -> str:
        return f"picture/{quote(self._workspace.address(path), safe='/')}"


def _role(state: PhotoState) -> Answer:
    """Return the fields that a new mask sets: a photo's first mask is a reference, and a reference stays one."""
    if not state.has_mask:
        return {"source": "reference", "review": "approved"}
    return {"source": "reference"} if state.entry is not None and state.entry.source == "reference" else {}


def _data_url(picture: Image.Image) -> str:
    """Return a picture as a data URL."""
    file = BytesIO()
    picture.save(file, format="PNG")
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def _in_the_manifest(clicks: Sequence[tuple[float, float, int]]) -> Answer:
    """Convert clicks, (x, y, label), to fields of a manifest line."""
    return {"points": [[int(x), int(y)] for x, y, _ in clicks], "point_labels": [label for *_, label in clicks]}
