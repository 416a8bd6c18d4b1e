"""Encode photos (equation 3), the costly part, with an optional cache on disk."""

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
    """A backbone's image encoder, optionally with a second encoder and a cache on disk.

    The cache has one file per photo and backbone, `<weights>-<precision>[-<edge padding>]/<first two digits>/<SHA-256
    of the pixels>.safetensors`, so a renamed photo hits the cache and a changed one does not. Cached tensors are
    bit-identical: float32, about 4 MB per photo for a 1024-pixel SAM. Damaged files are recomputed.

    Args:
        backbone: encodes the photos; a SAM's decoder also takes this encoding.
        features: second encoder, whose features the confidence map is computed from.
        cache: cache folder; None disables the cache.
        edge_padding: width of the border that replicates the photo's edge, as a share of the photo's longer side.
    """

    def __init__(
        self,
        backbone: Backbone | FeatureEncoder,
        features: FeatureEncoder | None = None,
        cache: Path | str | None = None,
        edge_padding: float = 0.0,
    ) -> None:
        self._backbone, self._features, self._edge_padding = backbone, features, edge_padding
        self.checksum = backbone.checksum if features is None else f"{backbone.checksum}-{features.checksum}"
        encoders = [encoder for encoder in (backbone, features) if encoder]
        name = [self.checksum, *(str(encoder.dtype).removeprefix("torch.") for encoder in encoders)]
        for encoder in encoders:
            if isinstance(encoder, FeatureEncoder):  # a SAM has one size and one way of placing a photo
                name.append(f"{encoder.image_size}{'squeezed' if encoder.stretch else ''}")
        if edge_padding:
            name.append(f"edge{edge_padding:g}")
        self._cache = None if cache is None else TensorCache(Path(cache) / "-".join(name))

    def __call__(self, images: Sequence[Picture | EncodedPhoto]) -> list[EncodedPhoto]:
        """Encode photos in one forward pass; photos that are already encoded are returned unchanged."""
        encoded = {index: image for index, image in enumerate(images) if isinstance(image, EncodedPhoto)}
        missing: dict[int, NDArray[np.uint8]] = {}
        for index, image in enumerate(images):
            if not isinstance(image, EncodedPhoto):
                pixels = rgb_array(image)
                cached = self._read(pixels)
                if cached is None:
                    missing[index] = pixels
                else:
                    encoded[index] = cached
        if missing:
            encoded |= dict(zip(missing, self._encode(list(missing.values())), strict=True))
        return [encoded[index] for index in range(len(images))]

    def _frame(self, model: Backbone | FeatureEncoder, pixels: NDArray[np.uint8]) -> Frame:
        """Place an (H, W, 3) photo in the model's square, with its border."""
        frame = model.frame(*pixels.shape[:2])
        share = self._edge_padding / (1 + 2 * self._edge_padding)  # of the photo including both borders
        return replace(frame, border=round(share * frame.side))

    def _encode(self, photos: Sequence[NDArray[np.uint8]]) -> list[EncodedPhoto]:
        frames = [self._frame(self._backbone, pixels) for pixels in photos]
        square = [frame.pixels(pixels) for frame, pixels in zip(frames, photos, strict=True)]
        embeddings, extra = self._backbone.encode_with_extra(torch.stack(square))
        check_finite(embeddings, self._backbone.name)
        encoded = [
            EncodedPhoto(embeddings[index], frame, tuple(level[index] for level in extra), self._other(pixels))
            for index, (frame, pixels) in enumerate(zip(frames, photos, strict=True))
        ]
        for pixels, photo in zip(photos, encoded, strict=True):
            self._write(pixels, photo)
        return encoded

    def _other(self, pixels: NDArray[np.uint8]) -> EncodedPhoto | None:
        """Encode an (H, W, 3) uint8 photo with the second encoder; None without one."""
        if self._features is None:
            return None
        frame = self._frame(self._features, pixels)
        embedding = self._features.encode(frame.pixels(pixels)[None])[0]
        check_finite(embedding, "the encoder of --features")
        return EncodedPhoto(embedding.to(self._backbone.device), frame)

    def _read(self, pixels: NDArray[np.uint8]) -> EncodedPhoto | None:
        """Read a photo's encoding from the cache; None if it is missing or incomplete."""
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
        tensors |= {f"extra.{number}": level for number, level in enumerate(photo.extra)}
        if photo.other is not None:
            tensors["other"] = photo.other.embedding
        self._cache.put(_key(pixels), tensors)


def check_finite(values: Tensor, model: str) -> None:
    """Raise a UserError if a model returns NaN or infinity: damaged weights, or too low a precision."""
    if not values.isfinite().all():
        raise UserError(
            f"{model} returns values that are not finite: either its weights are damaged (download them again) or "
            "float16 overflows (use float32)"
        )


def _key(pixels: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
