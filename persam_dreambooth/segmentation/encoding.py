"""Equation 3: photos through the image encoder, the costly part; what was encoded once is not encoded again."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.backbones import Backbone
from persam_dreambooth.segmentation.features import FeatureEncoder
from persam_dreambooth.segmentation.frame import Frame
from persam_dreambooth.segmentation.types import EncodedPhoto, Picture, rgb_array
from persam_dreambooth.torch_utils import TensorCache


class PhotoEncoder:
    """A backbone's image encoder, perhaps with another beside it, perhaps with a cache on disk.

    The cache has a file a photo and backbone, `<weights>-<precision>[-<edge padding>]/<first two digits>/<SHA-256 of
    the pixels>.safetensors`, so that a renamed photo is known and a changed one is not. What comes out of it is
    what went in, bit for bit: float32, about 4 MB for a SAM of 1024 pixels. A damaged file is made anew.

    Args:
        backbone: whose features the decoder takes.
        features: another encoder, whose features the confidence map is made of.
        cache: folder of the cache; None keeps nothing.
        edge_padding: width of the border in which a photo's edge is repeated, as a share of its longer side.
    """

    def __init__(
        self,
        backbone: Backbone,
        features: FeatureEncoder | None = None,
        cache: Path | str | None = None,
        edge_padding: float = 0.0,
    ) -> None:
        self._backbone, self._features, self._edge_padding = backbone, features, edge_padding
        self.checksum = backbone.checksum if features is None else f"{backbone.checksum}-{features.checksum}"
        name = [self.checksum, *(str(one.dtype).removeprefix("torch.") for one in (backbone, features) if one)]
        if edge_padding:
            name.append(f"edge{edge_padding:g}")
        self._cache = None if cache is None else TensorCache(Path(cache) / "-".join(name))

    def __call__(self, images: Sequence[Picture | EncodedPhoto]) -> list[EncodedPhoto]:
        """Encode photos, in one call of the model; what is encoded already stays as it is."""
        done = {number: one for number, one in enumerate(images) if isinstance(one, EncodedPhoto)}
        waiting: dict[int, NDArray[np.uint8]] = {}
        for number, one in enumerate(images):
            if not isinstance(one, EncodedPhoto):
                pixels = rgb_array(one)
                known = self._read(pixels)
                if known is None:
                    waiting[number] = pixels
                else:
                    done[number] = known
        if waiting:
            done |= dict(zip(waiting, self._encode(list(waiting.values())), strict=True))
        return [done[number] for number in range(len(images))]

    def _frame(self, model: Backbone | FeatureEncoder, pixels: NDArray[np.uint8]) -> Frame:
        """Where a photo, (H, W, 3), lies in a model's square, with its border."""
        frame = model.frame(*pixels.shape[:2])
        share = self._edge_padding / (1 + 2 * self._edge_padding)  # of the photo with both of its borders
        return replace(frame, border=round(share * frame.side))

    def _encode(self, photos: Sequence[NDArray[np.uint8]]) -> list[EncodedPhoto]:
        frames = [self._frame(self._backbone, pixels) for pixels in photos]
        square = [frame.pixels(pixels) for frame, pixels in zip(frames, photos, strict=True)]
        embeddings, extra = self._backbone.encode_with_extra(torch.stack(square))
        check_finite(embeddings, self._backbone.name)
        encoded = [
            EncodedPhoto(embeddings[place], frame, tuple(one[place] for one in extra), self._other(pixels))
            for place, (frame, pixels) in enumerate(zip(frames, photos, strict=True))
        ]
        for pixels, photo in zip(photos, encoded, strict=True):
            self._write(pixels, photo)
        return encoded

    def _other(self, pixels: NDArray[np.uint8]) -> EncodedPhoto | None:
        """One photo, (H, W, 3) uint8, through the other encoder, where there is one."""
        if self._features is None:
            return None
        frame = self._frame(self._features, pixels)
        embedding = self._features.encode(frame.pixels(pixels)[None])[0]
        check_finite(embedding, "the encoder of --features")
        return EncodedPhoto(embedding.to(self._backbone.device), frame)

    def _read(self, pixels: NDArray[np.uint8]) -> EncodedPhoto | None:
        """What the cache has of a photo; None where it has nothing whole."""
        stored = self._cache.get(_key(pixels), str(self._backbone.device)) if self._cache else None
        if stored is None or "embedding" not in stored or (self._features is not None and "other" not in stored):
            return None
        extra = tuple(stored[f"extra.{number}"] for number in range(sum(name.startswith("extra.") for name in stored)))
        other = None
        if self._features is not None:
            other = EncodedPhoto(stored["other"], self._frame(self._features, pixels))
        return EncodedPhoto(stored["embedding"], self._frame(self._backbone, pixels), extra, other)

    def _write(self, pixels: NDArray[np.uint8], photo: EncodedPhoto) -> None:
        if self._cache is None:
            return
        tensors: dict[str, Tensor] = {"embedding": photo.embedding}
        tensors |= {f"extra.{number}": one for number, one in enumerate(photo.extra)}
        if photo.other is not None:
            tensors["other"] = photo.other.embedding
        self._cache.put(_key(pixels), tensors)


def check_finite(values: Tensor, model: str) -> None:
    """Raise a UserError where a model answers with NaN or infinity: damaged weights, or too low a precision."""
    if not values.isfinite().all():
        raise UserError(
            f"{model} gives values that are not finite; its weights are damaged, download it again, or its numbers "
            "do not fit into float16: try float32"
        )


def _key(pixels: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
