"""LPIPS (Zhang et al., arXiv 1801.03924) from torchmetrics, the DreamBooth paper's measure of diversity."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from persam_dreambooth.devices import choose_device
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.finding import Drawn
from persam_dreambooth.photos import files
from persam_dreambooth.torch_utils import TensorCache


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
