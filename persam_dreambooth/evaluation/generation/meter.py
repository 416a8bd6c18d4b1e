"""Every measure of every picture, from what CLIP and DINO see in it."""

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
"""What the similarity with the photos is called, by encoder and region."""


@dataclass(frozen=True)
class MeasuredPicture:
    """One picture, measured.

    Attributes:
        drawn: the picture.
        values: measure -> its value; without those that cannot be had.
        scene: the label that its background was taken for; None where there was nothing to choose from.
    """

    drawn: Drawn
    values: Mapping[str, float]
    scene: str | None


class PictureMeter:
    """Compares pictures with the subject's photos and with their prompts.

    Args:
        clip: reads the prompts.
        encoders: "clip" and perhaps "dino" -> their features.
        photos: the subject's, with masks neither empty nor full.
        scenes: the labels.
    """

    def __init__(
        self, clip: Clip, encoders: Mapping[str, CachedFeatures], photos: Sequence[Masked], scenes: Scenes
    ) -> None:
        self._clip, self._encoders, self._scenes = clip, encoders, scenes
        self._real = {(name, region): _all(encode(photos, region, "Photos")) for name, encode, region in self._each()}

    def measure(self, drawn: Sequence[Drawn], title: str) -> list[MeasuredPicture]:
        """Measure every picture of one model; the title is for the progress bar."""
        files = [one.files for one in drawn]
        seen = {(name, region): encode(files, region, f"Measuring, {title}") for name, encode, region in self._each()}
        texts = self._clip.read([one.prompt.plain for one in drawn]).cpu()
        said = measures.prompt_fidelity(_all(seen["clip", "whole"]), texts)
        measured = []
        for number, one in enumerate(drawn):
            values = {"clip_t": float(said[number])}
            for key, name in NAMES.items():
                feature = seen[key][number] if key in seen else None
                if feature is not None:
                    values[name] = float(measures.similarity(feature[None], self._real[key]))
            if one.presence is not None:
                values["found"] = float(one.presence == "found")
            scene = self._scenes.recognize(seen["clip", "outside"][number])
            measured.append(MeasuredPicture(one, values | self._scenes.rates(scene, one.prompt.scene), scene))
        return measured

    def spread(self, drawn: Sequence[Drawn]) -> float | None:
        """How different the pictures of one prompt are, by DINO's features, else CLIP's; None for fewer than two."""
        encode = self._encoders.get("dino", self._encoders["clip"])
        return measures.diversity(_all(encode([one.files for one in drawn], "whole", "Comparing")))

    def of_photos(self) -> dict[str, float]:
        """The photos measured as if they had been drawn, each against the others; nothing for a single one."""
        count = len(self._real["clip", "whole"])
        if count < 2:
            return {}
        made = {NAMES[key]: float(measures.likeness_among(real).mean()) for key, real in self._real.items()}
        seen = [self._scenes.recognize(one) for one in self._real["clip", "outside"]]
        if self._scenes.training and None not in seen:
            made["training_scene"] = sum(one in self._scenes.training for one in seen) / count
        return made

    def _each(self) -> list[tuple[str, CachedFeatures, Region]]:
        return [(name, encode, region) for name, encode in self._encoders.items() for region in REGIONS]


def _all(features: Sequence[Tensor | None]) -> Tensor:
    """(n, C) of features none of which is missing: of whole pictures, or of masks neither empty nor full."""
    return torch.stack([one for one in features if one is not None])
