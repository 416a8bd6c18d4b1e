"""Compute all measures of all pictures from their CLIP and DINO features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from persam_dreambooth.evaluation.generation import measures
from persam_dreambooth.evaluation.generation.encoders import Clip
from persam_dreambooth.evaluation.generation.features import CachedFeatures, Masked
from persam_dreambooth.evaluation.generation.finding import Drawn
from persam_dreambooth.evaluation.generation.regions import REGIONS, Region
from persam_dreambooth.evaluation.generation.scenes import Scenes

NAMES: Mapping[tuple[str, Region], str] = {
    ("dino", "whole"): "dino",
    ("dino", "inside"): "dino_inside",
    ("dino", "outside"): "leakage_dino",
    ("clip", "whole"): "clip_i",
    ("clip", "inside"): "clip_i_inside",
    ("clip", "outside"): "leakage_clip",
}
"""Name of the measure of similarity with the photos, by encoder and region."""


@dataclass(frozen=True)
class MeasuredPicture:
    """A picture with its measures.

    Attributes:
        drawn: the picture.
        values: measure -> value; measures that are undefined for this picture are missing.
        scene: the scene label recognized in its background; None if there was nothing to classify.
    """

    drawn: Drawn
    values: Mapping[str, float]
    scene: str | None


class PictureMeter:
    """Compares pictures with the subject's photos and with their prompts.

    Args:
        clip: embeds the prompts.
        encoders: "clip" and optionally "dino" -> cached features.
        photos: the subject's photos, with masks neither empty nor full.
        scenes: the scene labels.
    """

    def __init__(
        self, clip: Clip, encoders: Mapping[str, CachedFeatures], photos: Sequence[Masked], scenes: Scenes
    ) -> None:
        self._clip, self._encoders, self._scenes = clip, encoders, scenes
        self._real = {(name, region): _all(encode(photos, region, "Photos")) for name, encode, region in self._each()}

    def measure(self, drawn: Sequence[Drawn], title: str) -> list[MeasuredPicture]:
        """Measure all pictures of one model; the title is for the progress bar."""
        files = [picture.files for picture in drawn]
        features = {
            (name, region): encode(files, region, f"Measuring, {title}") for name, encode, region in self._each()
        }
        texts = self._clip.read([picture.prompt.plain for picture in drawn]).cpu()
        fidelity = measures.prompt_fidelity(_all(features["clip", "whole"]), texts)
        measured = []
        for index, picture in enumerate(drawn):
            values = {"clip_t": float(fidelity[index])}
            for key, name in NAMES.items():
                feature = features[key][index] if key in features else None
                if feature is not None:
                    values[name] = float(measures.similarity(feature[None], self._real[key]))
            if picture.presence is not None:
                values["found"] = float(picture.presence == "found")
            scene = self._scenes.recognize(features["clip", "outside"][index])
            values |= self._scenes.rates(scene, picture.prompt.scene)
            measured.append(MeasuredPicture(picture, values, scene))
        return measured

    def spread(self, drawn: Sequence[Drawn]) -> float | None:
        """Diversity of the pictures of one prompt, by DINO's features or else CLIP's; None for fewer than two."""
        encode = self._encoders.get("dino", self._encoders["clip"])
        return measures.diversity(_all(encode([picture.files for picture in drawn], "whole", "Comparing")))

    def of_photos(self) -> dict[str, float]:
        """Measure the photos as if they were generated, each against the others; empty for a single photo."""
        count = len(self._real["clip", "whole"])
        if count < 2:
            return {}
        values = {NAMES[key]: float(measures.likeness_among(real).mean()) for key, real in self._real.items()}
        recognized = [self._scenes.recognize(background) for background in self._real["clip", "outside"]]
        if self._scenes.training and None not in recognized:
            values["training_scene"] = sum(scene in self._scenes.training for scene in recognized) / count
        return values

    def _each(self) -> list[tuple[str, CachedFeatures, Region]]:
        return [(name, encode, region) for name, encode in self._encoders.items() for region in REGIONS]


def _all(features: Sequence[Tensor | None]) -> Tensor:
    """Stack features as (n, C); none is missing for whole pictures, or for masks neither empty nor full."""
    return torch.stack([feature for feature in features if feature is not None])
