"""Measure validation pictures as `evaluate` does: how faithful the subject is, how much of the background leaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.choice import on_scale
from persam_dreambooth.evaluation.generation.features import Masked, Region, region_of
from persam_dreambooth.evaluation.generation.measures import NAMES, likeness_among, similarity
from persam_dreambooth.metrics_file import read_metrics, read_warnings
from persam_dreambooth.photos import files
from persam_dreambooth.preprocessing import SegmentationJob
from persam_dreambooth.preprocessing.finder import Finder
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.segmentation import ImageEncoder
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data.dataset import InstancePhoto

FIDELITY: Final = "subject_fidelity"
LEAKAGE: Final = "background_leakage"
"""Names in `metrics.jsonl` of the two measures, on a scale on which 0 is the start and 1 the photos themselves."""
REGIONS: Final[Mapping[str, Region]] = {FIDELITY: "inside", LEAKAGE: "outside"}
MOST_PHOTOS = 16
"""Maximum number of photos to compare with: the SAM encodes each again at every measurement."""
LEAKING = 0.25
"""Leakage above which to warn: a quarter of the way from the start's backgrounds to the photos'."""
LEAKS: Final = "the photos' background leaks into the validation images"
PLATEAU = 0.05
"""The subject counts as learned after a step if no later one adds more than this to the fidelity."""


@dataclass(frozen=True)
class Likeness:
    """Compares validation pictures with the photos of the one subject; has models in memory only while it measures.

    Attributes:
        kind: of the encoder, "dino" or "clip".
        encoder: hub name or folder.
        sam: finds the subject in the pictures.
        photos: with masks neither empty nor full.
        device: of all models.
    """

    kind: str
    encoder: str
    sam: str
    photos: Sequence[Masked]
    device: torch.device
    _known: dict[Region, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, config: TrainingConfig, instances: Sequence[InstancePhoto], device: torch.device) -> Self | None:
        """Return the meter of a run; None without `--dino_model` and `--clip_model`.

        Raises:
            UserError: no mask leaves both subject and background.
        """
        validation = config.validation
        kind, encoder = ("dino", validation.dino_model) if validation.dino_model else ("clip", validation.clip_model)
        if not encoder or not validation.prompts:
            return None
        every = -(-len(instances) // MOST_PHOTOS)
        pairs = [Masked(photo.photo, region.mask) for photo in instances[::every] for region in photo.regions]
        usable = [pair for pair in pairs if 0 < files.read_mask(pair.mask).mean() < 1]
        if not usable:
            raise UserError(f"--{kind}_model compares subjects and backgrounds, and all masks are full; drop it")
        return cls(kind, encoder, config.mask.sam, usable, device)

    def check(self) -> None:
        """Load all models once, to fail before the first step.

        Raises:
            UserError: the encoder or the SAM cannot be loaded, or finds nothing in a photo.
        """
        self._load_encoder()
        self._finder(Path()).load()

    def has_measured(self, output: Path, step: int) -> bool:
        """Return whether a run's pictures of a step have been measured."""
        return any(NAMES[self.kind, region] in read_metrics(output).get(step, {}) for region in REGIONS.values())

    @torch.random.fork_rng(devices=[])  # loading models draws random numbers on the CPU
    def measure(self, pictures: Sequence[Path], output: Path) -> dict[str, float]:
        """Compare pictures with the photos.

        Args:
            pictures: files; each prompt and seed as at every step, so that steps can be compared.
            output: folder of the run, whose first measurement is the start of the scale.

        Returns:
            Mean cosines under the names of `evaluate generation` (`dino_inside`, `leakage_dino`), and both on the
            scale from the start to the photos (`subject_fidelity`, `background_leakage`). What is undefined is
            missing, as when the subject is found in no picture.
        """
        found = self._finder(pictures[0].parent).find(pictures)
        masked = [
            (photo.image, subject.mask)
            for photo, (subject,) in found
            if photo.image is not None and subject is not None
        ]
        encoder, history, values = self._load_encoder(), read_metrics(output).values(), dict[str, float]()
        for scaled, region in REGIONS.items():
            features = _encoded(masked, region, encoder)
            if features is None:
                continue
            of_photos = self._features_of_photos(region, encoder)
            name = NAMES[self.kind, region]
            values[name] = fmean(similarity(features, of_photos).tolist())
            start = next((numbers[name] for numbers in history if name in numbers), values[name])
            # A single photo has no other to be compared with; a copy of it has the cosine 1.
            best = float(likeness_among(of_photos).mean()) if len(of_photos) > 1 else 1.0
            values[scaled] = on_scale(values[name], start, best)
        return values

    def _features_of_photos(self, region: Region, encoder: ImageEncoder) -> Tensor:
        """Encode a region of all photos, at the first measurement only: (photos, channels)."""
        if region not in self._known:
            photos = [(files.read_photo(pair.picture), files.read_mask(pair.mask)) for pair in self.photos]
            features = _encoded(photos, region, encoder)
            assert features is not None, "no mask of the photos is empty or full"
            self._known[region] = features
        return self._known[region]

    def _finder(self, folder: Path) -> Finder:
        references = tuple(ReferenceFiles(pair.picture, mask=pair.mask) for pair in self.photos)
        job = SegmentationJob(folder, references, folder, self.sam, device=str(self.device), batch_size=1)
        return Finder(job, warns=False)  # training has warned of the masks already

    def _load_encoder(self) -> ImageEncoder:
        try:
            return ImageEncoder.from_pretrained(self.encoder, self.device)
        except UserError as error:
            raise UserError(f"--{self.kind}_model {self.encoder}: {error}") from error.__cause__ or error


def _encoded(
    pictures: Sequence[tuple[Image.Image, NDArray[np.bool_]]], region: Region, encoder: ImageEncoder
) -> Tensor | None:
    """Encode a region of pictures with masks: (pictures that have it, channels); None if none has it."""
    parts = [part for image, mask in pictures if (part := region_of(image, mask, region)) is not None]
    return torch.cat([encoder.encode([part]) for part in parts]) if parts else None


def leakage_warning(output: Path, prior_weight: float) -> str | None:
    """Return a warning if the last two measurements found more leakage than `LEAKING`, once in a run; else None.

    Args:
        output: the run's folder.
        prior_weight: its `--background_prior_weight`.
    """
    leakage = [values[LEAKAGE] for values in read_metrics(output).values() if LEAKAGE in values]
    if not leakage or min(leakage[-2:]) <= LEAKING or any(LEAKS in words for _, words in read_warnings(output)):
        return None
    prior = f"a --background_prior_weight above {prior_weight:g}" if prior_weight else "--background_prior_weight 1"
    return (
        f"{LEAKS}: on a scale from the first ones (0 %) to the photos (100 %) it is at {leakage[-1]:.0%}; stop here "
        f"and take an earlier checkpoint, or train with {prior}, or with photos on more varied backgrounds "
        "(--background_images)"
    )


def in_words(values: Mapping[str, float]) -> list[str]:
    """Return a line with a step's measures: "measured: subject 62 %, leaked background 10 %"; none without any."""
    titles = {FIDELITY: "subject", LEAKAGE: "leaked background"}
    parts = [f"{title} {values[name]:.0%}" for name, title in titles.items() if name in values]
    return [f"measured: {', '.join(parts)} (0% is the start, 100% the photos)"] if parts else []


def long_enough(output: Path) -> str | None:
    """Say after which step a run had learned its subject, if it went on and the leakage grew; else None.

    It is the first measured step whose fidelity no later step exceeds by more than `PLATEAU`, with at least two
    measurements after it and more leakage at the end than there.
    """
    seen = [
        (step, values[FIDELITY], values[LEAKAGE])
        for step, values in read_metrics(output).items()
        if FIDELITY in values and LEAKAGE in values
    ]
    if not seen:
        return None
    highest = max(fidelity for _, fidelity, _ in seen)
    number, (step, fidelity, leakage) = next(
        (number, measured) for number, measured in enumerate(seen) if measured[1] >= highest - PLATEAU
    )
    last = seen[-1][2]
    if len(seen) - number < 3 or last <= leakage or step == 0:
        return None
    return (
        f"trained long enough after step {step}: the subject was at {fidelity:.0%} there and never beyond "
        f"{highest:.0%}, while the leaked background went from {leakage:.0%} to {last:.0%}"
    )
