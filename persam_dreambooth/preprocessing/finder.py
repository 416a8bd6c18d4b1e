"""Decode photos and find a job's subjects in them: disjoint masks, and the decision whether each subject is there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.preprocessing.found import Found, assign_pixels, clean_up, union
from persam_dreambooth.preprocessing.job import SegmentationJob
from persam_dreambooth.preprocessing.references import read_references
from persam_dreambooth.segmentation import (
    AgreementCheck,
    EncodedPhoto,
    ImageEncoder,
    MaskCheck,
    OneShotSegmenter,
    PhraseCheck,
    Presence,
    PresenceCheck,
    PresenceRule,
    Reference,
    Segmentation,
    Subject,
    TextLocator,
    TextPrompt,
    load_segmenter,
    rate_references,
    segment_instances,
)


@dataclass(frozen=True)
class LoadedPhoto:
    """A decoded photo.

    Attributes:
        path: the file.
        digest: SHA-256 of its bytes, in hexadecimal.
        image: the upright photo, 8-bit RGB; None if it cannot be decoded.
        error: why it cannot be decoded, one sentence; None if it can.
    """

    path: Path
    digest: str
    image: Image.Image | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Sought:
    """One subject of the job.

    Attributes:
        subject: what personalization found.
        given: the user's masks, (H, W) bool, by the digests of the reference photos.
        check: decides whether a mask is of the subject; None without a presence rule, an agreement and a text.
    """

    subject: Subject
    given: Mapping[str, NDArray[np.bool_]]
    check: MaskCheck[Presence | None] | None


class Finder:
    """Personalize a one-shot method for the subjects of a job, and find them in photos.

    The references are read and checked at once; the models are loaded when they are first needed, or by `load`.

    Args:
        job: the subjects and the method.
        warns: whether to log warnings of reference masks that look wrong.

    Raises:
        UserError: a reference cannot be read, or its mask does not fit its photo, is empty or is full.
    """

    def __init__(self, job: SegmentationJob, warns: bool = True) -> None:
        self._job = job
        self._references = [read_references(given, warns) for given in job.subjects().values()]

    def load(self) -> list[Subject]:
        """Load the models and personalize, on the first call; return the subjects, in the order of `job.subjects()`.

        Raises:
            UserError: the SAM or the presence rule cannot be read, SAM finds nothing where a reference says, or the
                rule was calibrated on another SAM.
        """
        return [sought.subject for sought in self._sought]

    @property
    def caveat(self) -> str | None:
        """One sentence to tell the user about the presence rule; None if there is nothing to tell."""
        return self._rule.caveat if self._rule else None

    def find(
        self, photos: Sequence[Path], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[LoadedPhoto, Sequence[Found | None]]]:
        """Decode photos and find every subject in them, a batch at a time.

        Each of the job's worker processes decodes at most two batches ahead.

        Args:
            photos: the files.
            stopped: called before each batch; once it returns true, the remaining photos are skipped.

        Yields:
            Each photo, in order, with one `Found` per subject, or None if the photo cannot be decoded.
        """
        batches: DataLoader[Any] = DataLoader(
            photos,  # type: ignore[arg-type]  # any sequence will do
            self._job.batch_size,
            num_workers=self._job.dataloader_num_workers,
            collate_fn=_decode,
        )
        for batch in takewhile(lambda _: not stopped(), batches):
            yield from self._find_in(batch)

    @cached_property
    def _segmenter(self) -> OneShotSegmenter:
        job = self._job
        return load_segmenter(
            job.method,
            job.sam,
            job.features,
            job.features_size,
            job.device,
            job.dtype,
            job.embedding_cache,
            job.sam_size,
            job.crop_n_layers,
        )

    @cached_property
    def _rule(self) -> PresenceRule | None:
        return PresenceRule.load(self._job.rule) if self._job.rule else None

    @cached_property
    def _sought(self) -> list[_Sought]:
        segmenter, rule = self._segmenter, self._rule
        encoder = ImageEncoder.from_pretrained(rule.encoder, self._job.device) if rule and rule.encoder else None

        @cache
        def locator(prompt: TextPrompt) -> TextLocator:
            return TextLocator.from_pretrained(prompt.model, self._job.device)

        job, text, found = self._job, self._job.text, []
        others = job.agreement.load(job.device, job.embedding_cache, job.crop_n_layers) if job.agreement else ()
        for drawn in self._references:
            references = [reference.convert(segmenter, locator) for reference in drawn]
            encoded = segmenter.encode_references(references)
            chosen = _best(segmenter, references) if self._job.pick_reference else slice(None)
            subject = segmenter.personalize(references[chosen], encoded=encoded[chosen])
            given = {
                files.digest(read.given.image): made.foreground for read, made in zip(drawn, references, strict=True)
            }
            ruled: MaskCheck[Presence] | None = None
            if rule:
                ruled = PresenceCheck(segmenter, subject, references, rule, encoder, encoded)
            elif others:
                ruled = AgreementCheck(segmenter, subject, references[chosen], *others)
            check = PhraseCheck(segmenter, subject, locator(text), text, ruled) if text else ruled
            found.append(_Sought(subject, given, check))
        self._references.clear()  # their pixels are no longer needed
        return found

    def _find_in(self, photos: Sequence[LoadedPhoto]) -> Iterator[tuple[LoadedPhoto, Sequence[Found | None]]]:
        """Find every subject in a batch of photos, which the encoder sees together."""
        searched = [
            (photo.path, photo.image)
            for photo in photos
            if photo.image and any(photo.digest not in sought.given for sought in self._sought)
        ]
        encoded = self._segmenter.encode([image for _, image in searched])
        by_path = {path: embedding for (path, _), embedding in zip(searched, encoded, strict=True)}
        for photo in photos:
            yield photo, self._find_all(photo, by_path.get(photo.path))

    def _find_all(self, photo: LoadedPhoto, encoded: EncodedPhoto | None) -> Sequence[Found | None]:
        if photo.image is None:
            return [None] * len(self._sought)
        found = [self._find_subject(sought, photo, encoded) for sought in self._sought]
        found = found if encoded is None else assign_pixels(found, encoded)
        return clean_up(found, self._job.min_region) if self._job.min_region else found

    def _find_subject(self, sought: _Sought, photo: LoadedPhoto, encoded: EncodedPhoto | None) -> Found:
        if photo.digest in sought.given:
            return Found(sought.given[photo.digest])
        assert encoded is not None and photo.image is not None, "only photos with the user's masks are not encoded"
        name = self._job.method.name
        if sought.check is None:
            best = self._segmenter.segment_encoded(encoded, sought.subject)
            return Found(best.mask, name, (best,))
        if self._job.all_instances:
            instances, presence = self._find_instances(sought, sought.check, photo.image, encoded)
            if instances:
                return Found(union(instances), name, tuple(instances), presence)
        best, presence = sought.check.find(photo.image, encoded)
        return Found(best.mask, name, (best,), presence)

    def _find_instances(
        self,
        sought: _Sought,
        check: MaskCheck[Presence | None],
        image: Image.Image,
        encoded: EncodedPhoto,
    ) -> tuple[list[Segmentation], Presence | None]:
        """Return every instance whose verdict is "found", and the decision with the highest probability."""
        decisions: list[Presence] = []

        def is_subject(photo: EncodedPhoto, found: Segmentation) -> bool:
            decision = check(image, photo, found)
            assert decision is not None, "all instances need a presence rule"
            decisions.append(decision)
            return decision.verdict == "found"

        instances = segment_instances(self._segmenter, encoded, sought.subject, is_subject)
        return instances, max(decisions, key=lambda decision: decision.probability, default=None)


def _decode(paths: Sequence[Path]) -> list[LoadedPhoto]:
    return [_load(path) for path in paths]


def _load(path: Path) -> LoadedPhoto:
    digest = files.digest(path)
    try:
        return LoadedPhoto(path, digest, files.read_photo(path))
    except UserError as error:
        return LoadedPhoto(path, digest, error=str(error))


def _best(segmenter: OneShotSegmenter, references: list[Reference]) -> slice:
    """Return the slice that holds only the reference that segments the others best."""
    scores = rate_references(segmenter, references)
    best = scores.index(max(scores))
    return slice(best, best + 1)
