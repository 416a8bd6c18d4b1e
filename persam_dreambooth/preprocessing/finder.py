"""The subjects of a job, and what of each is in a photo: masks that share no pixel, and the decision on presence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.photos import files
from persam_dreambooth.preprocessing.job import SegmentationJob
from persam_dreambooth.preprocessing.loading import LoadedPhoto
from persam_dreambooth.preprocessing.references import read_references
from persam_dreambooth.segmentation import (
    EncodedPhoto,
    FeatureEncoder,
    ImageEncoder,
    PerSAM,
    Presence,
    PresenceCheck,
    PresenceRule,
    Reference,
    Segmentation,
    Subject,
    pick_reference,
    segment_instances,
)
from persam_dreambooth.segmentation.multi_mask import without_overlap


@dataclass(frozen=True, eq=False)
class Found:
    """One subject in one photo.

    Attributes:
        mask: (H, W) bool, all of its instances.
        instances: one, or with `all_instances` each; empty in a reference photo.
        presence: the decision; None in a reference photo and where there is no rule.
    """

    mask: NDArray[np.bool_]
    instances: tuple[Segmentation, ...] = ()
    presence: Presence | None = None


@dataclass(frozen=True)
class _Sought:
    """A subject, the masks that the user gave of it by their photo's digest, and how its presence is decided."""

    subject: Subject
    given: Mapping[str, NDArray[np.bool_]]
    check: PresenceCheck | None


class Finder:
    """Load the SAM, learn the subjects of a job, find them.

    Attributes:
        caveat: what is to be said of the presence rule, one sentence; None for nothing.

    Raises:
        UserError: no SAM, a reference that cannot be read or shows nothing, or a presence rule of another SAM.
    """

    def __init__(self, job: SegmentationJob) -> None:
        features = FeatureEncoder.from_pretrained(job.features, device=job.device) if job.features else None
        self._persam = PerSAM.from_pretrained(
            job.sam, job.method, job.device, job.dtype, features, job.embedding_cache
        )
        self._all_instances = job.all_instances
        rule = PresenceRule.load(job.rule) if job.rule else None
        self.caveat = rule.caveat if rule else None
        encoder = ImageEncoder.from_pretrained(rule.encoder, job.device) if rule and rule.encoder else None
        self._sought: list[_Sought] = []
        for given in job.subjects().values():
            references = read_references(given, self._persam)
            encoded = self._persam.encode_references(references)
            chosen = self._best(references) if job.pick_reference else slice(None)
            subject = self._persam.personalize(references[chosen], encoded=encoded[chosen])
            masks = {files.digest(one.image): read.foreground for one, read in zip(given, references, strict=True)}
            check = PresenceCheck(self._persam, subject, references, rule, encoder, encoded) if rule else None
            self._sought.append(_Sought(subject, masks, check))

    @property
    def subjects(self) -> list[Subject]:
        """In the order of the job's."""
        return [one.subject for one in self._sought]

    def find(self, photos: Sequence[LoadedPhoto]) -> list[list[Found]]:
        """What of each subject is in each photo, all of which were decoded."""
        unknown = [photo for photo in photos if any(photo.digest not in one.given for one in self._sought)]
        encoded = self._persam.encode([photo.image for photo in unknown if photo.image])
        by_path = {photo.path: one for photo, one in zip(unknown, encoded, strict=True)}
        return [self._find_all(photo, by_path.get(photo.path)) for photo in photos]

    def _find_all(self, photo: LoadedPhoto, encoded: EncodedPhoto | None) -> list[Found]:
        answers = [self._find_one(one, photo, encoded) for one in self._sought]
        return answers if encoded is None else _apart(answers, encoded)

    def _find_one(self, sought: _Sought, photo: LoadedPhoto, encoded: EncodedPhoto | None) -> Found:
        if photo.digest in sought.given:
            return Found(sought.given[photo.digest])
        assert encoded is not None and photo.image is not None, "only photos that a user gave masks of stay unseen"
        if sought.check is None:
            only = self._persam.segment(encoded, sought.subject)
            return Found(only.mask, (only,))
        if self._all_instances:
            instances, decision = self._find_instances(sought, sought.check, photo.image, encoded)
            if instances:
                return Found(np.any([one.mask for one in instances], axis=0), tuple(instances), decision)
        likeliest, presence = sought.check.find(photo.image, encoded)
        return Found(likeliest.mask, (likeliest,), presence)

    def _find_instances(
        self, sought: _Sought, check: PresenceCheck, image: Image.Image, encoded: EncodedPhoto
    ) -> tuple[list[Segmentation], Presence | None]:
        """Every instance that is surely the subject, and the surest decision."""
        decisions: list[Presence] = []

        def is_subject(photo: EncodedPhoto, found: Segmentation) -> bool:
            decisions.append(check(image, photo, found))
            return decisions[-1].verdict == "found"

        instances = segment_instances(self._persam, encoded, sought.subject, is_subject)
        return instances, max(decisions, key=lambda one: one.probability, default=None)

    def _best(self, references: list[Reference]) -> slice:
        """Where in the list the best reference is."""
        scores = pick_reference(self._persam, references)
        best = scores.index(max(scores))
        return slice(best, best + 1)


def _apart(answers: list[Found], photo: EncodedPhoto) -> list[Found]:
    """The same with no pixel in two masks.

    The user's own masks come first, then those that are surely their subject's, each pixel to the highest logit;
    a subject that is perhaps not there takes none away from them.
    """
    result = list(answers)
    taken = [answer.mask for answer in answers if not answer.instances]
    for doubted in (False, True):
        places = [place for place, one in enumerate(answers) if one.instances and _is_doubted(one) == doubted]
        found = [one for place in places for one in answers[place].instances]
        separate = iter(without_overlap(found, photo.frame, taken))
        for place in places:
            instances = tuple(next(separate) for _ in answers[place].instances)
            mask = np.any([one.mask for one in instances], axis=0)
            result[place] = replace(answers[place], mask=mask, instances=instances)
            taken.append(mask)
    return result


def _is_doubted(answer: Found) -> bool:
    return answer.presence is not None and answer.presence.verdict != "found"
