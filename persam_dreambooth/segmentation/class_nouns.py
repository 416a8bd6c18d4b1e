"""Suggest class nouns for a subject: CLIP or SigLIP compares its cut-outs with the names in a vocabulary."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel, Siglip2Model, SiglipModel

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.appearance import ImageEncoder, cut_out
from persam_dreambooth.segmentation.encoding import check_finite
from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.segmentation.pretrained import load_pretrained, load_processor
from persam_dreambooth.text_files import read_lines, with_article

CLASSES: Final[dict[str, type[Any]]] = {"clip": CLIPModel, "siglip": SiglipModel, "siglip2": Siglip2Model}
VOCABULARY: Final = Path(__file__).with_name("nouns.txt")
"""The names of LVIS's and COCO's categories."""
TEMPLATE: Final = "a photo of {}"
"""Sentence for the text encoder; {} stands for a noun with its article."""
BATCH: Final = 256
"""Number of sentences encoded at once."""

View = Callable[[NDArray[np.uint8], NDArray[np.bool_]], Image.Image]
"""Maps a photo, (H, W, 3) uint8 RGB, and the subject's mask, (H, W) bool, to a picture of the subject."""


def in_surroundings(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Image.Image:
    """Crop a photo to the subject's box, extended on each side by a quarter of its longer side, within the photo."""
    box = bounding_box(torch.from_numpy(mask))
    assert box is not None, "the mask must not be empty"
    left, top, right, bottom = box.tolist()
    margin = max(right - left, bottom - top) // 4 + 1
    return Image.fromarray(
        pixels[max(0, top - margin) : bottom + margin + 1, max(0, left - margin) : right + margin + 1]
    )


VIEWS: Final[tuple[View, ...]] = (cut_out, in_surroundings)
"""Views of the subject whose similarities are averaged: cut out, and in its surroundings."""


class ClassSuggester:
    """A CLIP or SigLIP with the features of all nouns of a vocabulary.

    Args:
        model: of one of `CLASSES`, of any size; it is frozen and moved to the device.
        processor: its transformers processor, for images and text.
        nouns: the vocabulary; at least one.
        device: None uses an accelerator if there is one.
        views: how the subject is cut out of a photo; the similarities of all views are averaged.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        nouns: Sequence[str],
        device: torch.device | str | None = None,
        views: Sequence[View] = VIEWS,
    ) -> None:
        self._encoder = ImageEncoder(model, processor.image_processor, device)
        self._tokenizer, self.nouns, self._views = processor.tokenizer, list(nouns), views
        self._features = torch.cat(
            [self._encode_text(self.nouns[start : start + BATCH]) for start in range(0, len(self.nouns), BATCH)]
        )  # (V, C)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, vocabulary: Path | None = None, device: torch.device | str | None = None
    ) -> Self:
        """Load by hub name ("openai/clip-vit-large-patch14", "google/siglip-so400m-patch14-384") or from a folder.

        Args:
            source: the name or the folder.
            vocabulary: see `read_vocabulary`.
            device: see the class.

        Raises:
            UserError: nothing found, another kind of model, no tokenizer or image processor, or no nouns in the file.
        """
        nouns = read_vocabulary(vocabulary)
        model, _ = load_pretrained(str(source), CLASSES, "CLIP or SigLIP", "openai/clip-vit-large-patch14")
        return cls(model, load_processor(str(source)), nouns, device)

    def suggest(
        self, shown: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]], count: int = 3
    ) -> list[tuple[str, float]]:
        """Return the nouns that are most similar to the subject.

        Args:
            shown: photos of the subject with its masks, (H, W, 3) uint8 RGB and (H, W) bool, not empty; at least one.
            count: number of nouns; fewer if the vocabulary is smaller.

        Returns:
            (noun, score) pairs, the best first. The score is the cosine similarity between the noun's sentence and
            the pictures of the subject, in [-1, 1], averaged over photos and views.
        """
        seen = torch.cat([self._encoder.encode([view(*photo) for view in self._views]) for photo in shown])  # (n, C)
        scores, best = (seen @ self._features.T).mean(0).topk(min(count, len(self.nouns)))
        return [(self.nouns[index], score) for index, score in zip(best.tolist(), scores.tolist(), strict=True)]

    @torch.no_grad()
    def _encode_text(self, nouns: Sequence[str]) -> Tensor:
        """Encode n nouns as (n, C) float32 unit-length features."""
        model = self._encoder.model
        # SigLIP was trained on padded sentences without an attention mask, so there the padding counts.
        padded = "max_length" if "siglip" in model.config.model_type else True
        tokens = self._tokenizer(
            [TEMPLATE.format(with_article(noun)) for noun in nouns],
            padding=padded,
            max_length=model.config.text_config.max_position_embeddings,
            truncation=True,
            return_tensors="pt",
        ).to(self._encoder.device)
        features = model.get_text_features(**tokens).pooler_output
        check_finite(features, "the text encoder")
        return normalize(features.float(), dim=-1)


def read_vocabulary(path: Path | None = None) -> list[str]:
    """Read nouns from a UTF-8 text file, one per line, without duplicates; lines that begin with # are comments.

    Args:
        path: the file; None for `VOCABULARY`.

    Raises:
        UserError: it cannot be read, or has no noun.
    """
    lines = read_lines(path or VOCABULARY, "vocabulary")
    nouns = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not nouns:
        raise UserError(f"the vocabulary {path} has no noun; write one per line, such as corgi")
    return nouns
