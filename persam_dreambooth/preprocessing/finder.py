"""Decode photos and find a job's subjects in them: a mask per subject, without overlap, and whether it is there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.preprocessing.job import SegmentationJob
from persam_dreambooth.preprocessing.references import read_references
from persam_dreambooth.segmentation import (
    EncodedPhoto,
    ImageEncoder,
    Presence,
    PresenceCheck,
    PresenceRule,
    Reference,
    Segmentation,
    Subject,
    load_segmenter,
    pick_reference,
    segment_instances,
)
from persam_dreambooth.segmentation.multi_mask import with_mask, without_overlap
from persam_dreambooth.segmentation.small_regions import without_small_regions


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


class _Photos(Dataset[LoadedPhoto]):
    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> LoadedPhoto:
        path = self._paths[index]
        digest = files.digest(path)
        try:
            return LoadedPhoto(path, digest, files.read_photo(path))
        except UserError as error:
            return LoadedPhoto(path, digest, error=str(error))


def load_photos(paths: Sequence[Path], batch_size: int, workers: int) -> Iterator[list[LoadedPhoto]]:
    """Yield batches of photos, in the order of the paths; each worker decodes at most two batches ahead.

    Args:
        paths: files of the photos.
        batch_size: photos per batch; the last batch may be smaller.
        workers: number of worker processes; 0 decodes in this process.
    """
    yield from DataLoader(_Photos(paths), batch_size, num_workers=workers, collate_fn=list)


@dataclass(frozen=True, eq=False)
class Found:
    """One subject in one photo.

    Attributes:
        mask: (H, W) bool, original-image frame; the union of the instances.
        instances: the best mask, or with `all_instances` each instance; empty if the user gave the photo's mask.
        presence: decision of the presence rule; None if the user gave the mask, or without a rule.
    """

    mask: NDArray[np.bool_]
    instances: tuple[Segmentation, ...] = ()
    presence: Presence | None = None


@dataclass(frozen=True)
class _Sought:
    """One subject of the job.

    Attributes:
        subject: what personalization found.
        given: the user's masks, (H, W) bool, by the digests of the reference photos.
        check: decides whether a mask is of the subject; None without a presence rule.
    """

    subject: Subject
    given: Mapping[str, NDArray[np.bool_]]
    check: PresenceCheck | None


class Finder:
    """Personalize a one-shot method for the subjects of a job, and find them in photos.

    Attributes:
        caveat: one sentence to tell the user about the presence rule; None if there is nothing to tell.

    Raises:
        UserError: the SAM, a reference or the presence rule cannot be read, a reference mask is empty, or the rule
            was calibrated on another SAM.
    """

    def __init__(self, job: SegmentationJob) -> None:
        self._segmenter = load_segmenter(
            job.method, job.sam, job.features, job.features_size, job.device, job.dtype, job.embedding_cache
        )
        self._all_instances, self._min_region = job.all_instances, job.min_region
        rule = PresenceRule.load(job.rule) if job.rule else None
        self.caveat = rule.caveat if rule else None
        encoder = ImageEncoder.from_pretrained(rule.encoder, job.device) if rule and rule.encoder else None
        self._sought: list[_Sought] = []
        for reference_files in job.subjects().values():
            references = read_references(reference_files, self._segmenter)
            encoded = self._segmenter.encode_references(references)
            chosen = self._best(references) if job.pick_reference else slice(None)
            subject = self._segmenter.personalize(references[chosen], encoded=encoded[chosen])
            given = {
                files.digest(paths.image): reference.foreground
                for paths, reference in zip(reference_files, references, strict=True)
            }
            check = PresenceCheck(self._segmenter, subject, references, rule, encoder, encoded) if rule else None
            self._sought.append(_Sought(subject, given, check))

    @property
    def subjects(self) -> list[Subject]:
        """The personalized subjects, in the order of `job.subjects()`."""
        return [sought.subject for sought in self._sought]

    def find(self, photos: Sequence[LoadedPhoto]) -> list[list[Found]]:
        """Find every subject in a batch of decoded photos.

        Returns:
            For each photo, one `Found` per subject, in the order of `subjects`.
        """
        unknown = [photo for photo in photos if any(photo.digest not in sought.given for sought in self._sought)]
        encoded = self._segmenter.encode([photo.image for photo in unknown if photo.image])
        by_path = {photo.path: embedding for photo, embedding in zip(unknown, encoded, strict=True)}
        return [self._find_all(photo, by_path.get(photo.path)) for photo in photos]

    def _find_all(self, photo: LoadedPhoto, encoded: EncodedPhoto | None) -> list[Found]:
        found = [self._find_subject(sought, photo, encoded) for sought in self._sought]
        found = found if encoded is None else _without_overlap(found, encoded)
        return _cleaned(found, self._min_region) if self._min_region else found

    def _find_subject(self, sought: _Sought, photo: LoadedPhoto, encoded: EncodedPhoto | None) -> Found:
        if photo.digest in sought.given:
            return Found(sought.given[photo.digest])
        assert encoded is not None and photo.image is not None, "only photos with the user's masks are not encoded"
        if sought.check is None:
            best = self._segmenter.segment(encoded, sought.subject)
            return Found(best.mask, (best,))
        if self._all_instances:
            instances, presence = self._find_instances(sought, sought.check, photo.image, encoded)
            if instances:
                return Found(_union(instances), tuple(instances), presence)
        best, presence = sought.check.find(photo.image, encoded)
        return Found(best.mask, (best,), presence)

    def _find_instances(
        self, sought: _Sought, check: PresenceCheck, image: Image.Image, encoded: EncodedPhoto
    ) -> tuple[list[Segmentation], Presence | None]:
        """Return every instance whose verdict is "found", and the decision with the highest probability."""
        decisions: list[Presence] = []

        def is_subject(photo: EncodedPhoto, found: Segmentation) -> bool:
            decisions.append(check(image, photo, found))
            return decisions[-1].verdict == "found"

        instances = segment_instances(self._segmenter, encoded, sought.subject, is_subject)
        return instances, max(decisions, key=lambda decision: decision.probability, default=None)

    def _best(self, references: list[Reference]) -> slice:
        """Return the slice that holds only the reference that segments the others best."""
        scores = pick_reference(self._segmenter, references)
        best = scores.index(max(scores))
        return slice(best, best + 1)


def _without_overlap(found: list[Found], photo: EncodedPhoto) -> list[Found]:
    """Assign each pixel of a photo to at most one subject.

    The user's own masks keep their pixels. Then come masks whose verdict is "found", then uncertain ones, so that a
    subject that may be absent takes no pixel from one that is there; within each group the highest logit decides.
    """
    result = list(found)
    taken = [subject.mask for subject in found if not subject.instances]
    for uncertain in (False, True):
        places = [n for n, subject in enumerate(found) if subject.instances and _is_uncertain(subject) == uncertain]
        instances = [instance for place in places for instance in found[place].instances]
        separate = iter(without_overlap(instances, photo.frame, taken))
        for place in places:
            own = tuple(next(separate) for _ in found[place].instances)
            result[place] = replace(found[place], mask=_union(own), instances=own)
            taken.append(result[place].mask)
    return result


def _cleaned(found: list[Found], min_region: int) -> list[Found]:
    """Clean up the masks that were found in a photo; no hole is filled with the pixels of another mask."""
    given = [subject.mask for subject in found if not subject.instances]
    masks = given + [instance.mask for subject in found for instance in subject.instances]
    covered = np.any(masks, axis=0)

    def clean(instance: Segmentation) -> Segmentation:
        mask = without_small_regions(instance.mask, min_region, covered & ~instance.mask)
        np.logical_or(covered, mask, out=covered)  # a pixel that is filled belongs to one mask only
        return with_mask(instance, mask)

    cleaned = [replace(subject, instances=tuple(map(clean, subject.instances))) for subject in found]
    return [replace(subject, mask=_union(subject.instances)) if subject.instances else subject for subject in cleaned]


def _is_uncertain(found: Found) -> bool:
    return found.presence is not None and found.presence.verdict != "found"


def _union(instances: Sequence[Segmentation]) -> NDArray[np.bool_]:
    """Return the union of the instances' masks, (H, W) bool."""
    return np.any([instance.mask for instance in instances], axis=0)
