"""Measures of generated pictures: those of the DreamBooth paper, and the leakage of the photos' background.

Ruiz et al., "DreamBooth" (arXiv 2208.12242, section 4.2): DINO and CLIP-I are the mean pairwise cosine similarity
of generated and real pictures' features (ViT-S/16 DINO's class token, CLIP's image embedding), CLIP-T is the mean
cosine of a picture's and its prompt's CLIP embeddings; DIV (in the supplement) is the mean LPIPS distance of pictures
of one subject and prompt. All are "higher is better" there.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation import prompts
from persam_dreambooth.evaluation.generation.features import REGIONS, CachedFeatures, Clip, Masked, Region
from persam_dreambooth.evaluation.generation.masc import Masc
from persam_dreambooth.evaluation.generation.pictures import Drawn
from persam_dreambooth.evaluation.generation.prompts import Prompt
from persam_dreambooth.photos import files
from persam_dreambooth.torch_utils import TensorCache, choose_device


def similarity(generated: Tensor, real: Tensor) -> Tensor:
    """DINO and CLIP-I, or the leakage if applied to backgrounds: each picture's mean cosine with all real ones.

    Args:
        generated: (n, C) float32 of length 1.
        real: (m, C) float32 of length 1, m at least 1.

    Returns:
        (n,) float32 in [-1, 1]; their mean is the paper's mean over all pairs.
    """
    return (generated @ real.T).mean(1)


def likeness_among(features: Tensor) -> Tensor:
    """Mean cosine of each row with the other rows: (n, C) of length 1, n at least 2, to (n,) float32 in [-1, 1]."""
    count = len(features)
    return ((features @ features.T).sum(1) - (features * features).sum(1)) / (count - 1)


def prompt_fidelity(pictures: Tensor, prompts: Tensor) -> Tensor:
    """CLIP-T: the cosine of each picture and its own prompt.

    Args:
        pictures, prompts: (n, C) float32 of length 1, one prompt per picture.

    Returns:
        (n,) float32 in [-1, 1]. torchmetrics' CLIPScore is 100 * max(mean, 0).
    """
    return (pictures * prompts).sum(1)


def diversity(features: Tensor) -> float | None:
    """DIV with features instead of LPIPS: the mean of 1 - cosine over all pairs of one prompt's pictures.

    Args:
        features: (n, C) float32 of length 1.

    Returns:
        In [0, 2]; None for fewer than two pictures.
    """
    return None if len(features) < 2 else float(1 - likeness_among(features).mean())


def recognized(pictures: Tensor, labels: Tensor) -> Tensor:
    """Zero-shot classification (Radford et al., arXiv 2103.00020, section 3.1.2): the most similar label of each.

    Args:
        pictures: (n, C) float32 of length 1.
        labels: (k, C) float32 of length 1, the labels' text embeddings.

    Returns:
        (n,) int64, an index into the labels.
    """
    return torch.argmax(pictures @ labels.T, dim=1)


class Lpips:
    """LPIPS with AlexNet, whose weights torchvision downloads once.

    Args:
        device: None uses an accelerator if there is one.
        cache: stores distances, keyed by the pictures' content.

    Raises:
        UserError: torchmetrics is not installed, or the weights are neither cached nor downloadable.
    """

    def __init__(self, device: str | None, cache: TensorCache) -> None:
        try:
            from torchmetrics.image import LearnedPerceptualImagePatchSimilarity
        except ImportError as error:
            raise UserError("--diversity lpips needs torchmetrics: `pip install torchmetrics`") from error
        try:
            with _plain_weights():
                self._metric: Any = LearnedPerceptualImagePatchSimilarity("alex", normalize=True)
        except Exception as error:  # no network, a damaged file: each has its own exception
            reason = " ".join(str(error).split())
            raise UserError(
                f"--diversity lpips needs torchvision's AlexNet, which cannot be loaded ({reason}); go online once, "
                "or use --diversity features"
            ) from error
        self._device, self._cache = choose_device(device), cache
        self._metric.to(self._device)

    def __call__(self, drawn: Sequence[Drawn]) -> float | None:
        """Return the mean distance over all pairs of pictures, all of one size; None for fewer than two."""
        pairs = list(combinations([picture.files.picture for picture in drawn], 2))
        return fmean(self._distance(*pair) for pair in pairs) if pairs else None

    @torch.no_grad()
    def _distance(self, first: Path, second: Path) -> float:
        key = hashlib.sha256(f"lpips alex {files.digest(first)} {files.digest(second)}".encode()).hexdigest()
        cached = self._cache.get(key)
        if cached is None:
            levels = (torch.from_numpy(np.array(files.read_photo(path))) for path in (first, second))
            pixels = [level.permute(2, 0, 1)[None].to(self._device) / 255 for level in levels]
            cached = {"distance": self._metric(*pixels).reshape(1)}
            self._metric.reset()
            self._cache.put(key, cached)
        return float(cached["distance"])


@contextmanager
def _plain_weights() -> Iterator[None]:
    """Force weights-only loading in torch: torchvision does not request it, and a pickle may contain code."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


class Scenes:
    """The scene labels and their CLIP text features.

    Args:
        clip: embeds the labels.
        asked: the prompts; each scene that one of them names is a label.
        training: the photos' scene, in one wording or several; these are labels too.
        template: sentence for a label, {} for its words: "a photo {}".
    """

    def __init__(self, clip: Clip, asked: Sequence[Prompt], training: Sequence[str], template: str) -> None:
        self.training = list(dict.fromkeys(training))
        self.labels = list(dict.fromkeys([*prompts.scenes(asked), *self.training]))
        sentences = [template.replace("{}", label) for label in self.labels]
        self._features = clip.encode_texts(sentences).cpu() if sentences else torch.empty(0, 0)

    def recognize(self, background: Tensor | None) -> str | None:
        """Classify a background's (C,) unit-length CLIP feature; None without one, or with fewer than two labels."""
        if background is None or len(self.labels) < 2:
            return None
        return self.labels[int(recognized(background[None], self._features))]

    def rates(self, seen: str | None, asked: str | None) -> dict[str, float]:
        """Return one picture's `scene` and `training_scene`, 0 or 1 each; without those that do not apply.

        Args:
            seen: the scene from `recognize`.
            asked: the prompt's scene.
        """
        if seen is None or asked is None:
            return {}
        leaked = {"training_scene": float(seen in self.training)} if self.training else {}
        return {"scene": float(seen == asked)} | (leaked if asked not in self.training else {})


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
        masc: measures MaSC; None leaves it out.
    """

    def __init__(
        self,
        clip: Clip,
        encoders: Mapping[str, CachedFeatures],
        photos: Sequence[Masked],
        scenes: Scenes,
        masc: Masc | None = None,
    ) -> None:
        self._clip, self._encoders, self._scenes, self._photos, self._masc = clip, encoders, scenes, photos, masc
        self._real = {(name, region): _all(encode(photos, region, "Photos")) for name, encode, region in self._each()}

    def measure(self, drawn: Sequence[Drawn], title: str) -> list[MeasuredPicture]:
        """Measure all pictures of one model; the title is for the progress bar."""
        files = [picture.files for picture in drawn]
        features = {
            (name, region): encode(files, region, f"Measuring, {title}") for name, encode, region in self._each()
        }
        texts = self._clip.encode_texts([picture.prompt.plain for picture in drawn]).cpu()
        fidelity = prompt_fidelity(_all(features["clip", "whole"]), texts)
        measured = []
        for index, picture in enumerate(drawn):
            values = {"clip_t": float(fidelity[index])}
            for key, name in NAMES.items():
                feature = features[key][index] if key in features else None
                if feature is not None:
                    values[name] = float(similarity(feature[None], self._real[key]))
            preserved = self._masc(self._photos, picture.files.picture) if self._masc else None
            if preserved is not None:
                values["masc"] = preserved
            if picture.presence is not None:
                values["found"] = float(picture.presence == "found")
            scene = self._scenes.recognize(features["clip", "outside"][index])
            values |= self._scenes.rates(scene, picture.prompt.scene)
            measured.append(MeasuredPicture(picture, values, scene))
        return measured

    def likeness(self, drawn: Sequence[Drawn], title: str) -> list[float | None]:
        """Return how much each picture's subject looks like the photos', by DINO's features or else CLIP's.

        The value is `dino_inside` or `clip_i_inside`; None for an empty mask.
        """
        name = "dino" if "dino" in self._encoders else "clip"
        features = self._encoders[name]([picture.files for picture in drawn], "inside", f"Measuring, {title}")
        real = self._real[name, "inside"]
        return [None if feature is None else float(similarity(feature[None], real)) for feature in features]

    def spread(self, drawn: Sequence[Drawn]) -> float | None:
        """Diversity of the pictures of one prompt, by DINO's features or else CLIP's; None for fewer than two."""
        encode = self._encoders.get("dino", self._encoders["clip"])
        return diversity(_all(encode([picture.files for picture in drawn], "whole", "Comparing")))

    def of_photos(self) -> dict[str, float]:
        """Measure the photos as if they were generated, each against the others; empty for a single photo."""
        count = len(self._real["clip", "whole"])
        if count < 2:
            return {}
        values = {NAMES[key]: float(likeness_among(real).mean()) for key, real in self._real.items()}
        recognized = [self._scenes.recognize(background) for background in self._real["clip", "outside"]]
        if self._scenes.training and None not in recognized:
            values["training_scene"] = sum(scene in self._scenes.training for scene in recognized) / count
        if self._masc:
            others = {photo: [other for other in self._photos if other is not photo] for photo in self._photos}
            each = [self._masc(references, photo.picture) for photo, references in others.items()]
            values["masc"] = fmean(value for value in each if value is not None)
        return values

    def _each(self) -> list[tuple[str, CachedFeatures, Region]]:
        return [(name, encode, region) for name, encode in self._encoders.items() for region in REGIONS]


def _all(features: Sequence[Tensor | None]) -> Tensor:
    """Stack features as (n, C); none is missing for whole pictures, or for masks neither empty nor full."""
    return torch.stack([feature for feature in features if feature is not None])
