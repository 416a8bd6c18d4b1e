"""FastSAM (Zhao et al. 2023, arXiv 2306.12156) as a source of proposals, run by the user's own `ultralytics`.

That package is under AGPL-3.0. It is no dependency of this one, and is imported only here.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.errors import UserError, first_line, is_out_of_memory
from persam_dreambooth.segmentation.frame import Frame
from persam_dreambooth.segmentation.proposals import Proposal, ProposalSource, without_duplicates
from persam_dreambooth.segmentation.types import EncodedPhoto

SIDE: Final = 1024
"""Longer side, in pixels, at which FastSAM was trained and sees photos."""
QUIET: Final = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
"""Environment variables that keep `ultralytics` from reporting its use and from installing packages."""


class FastSam(ProposalSource):
    """FastSAM's masks of everything in a photo.

    Args:
        path: its `.pt` file. Loading one can run code that it holds.
        device: None uses an accelerator if there is one.
        conf: lowest confidence of a mask.
        box_nms_thresh: IoU of the boxes above which the worse of two masks is dropped.

    Raises:
        UserError: no such file, one that is no FastSAM, or `ultralytics` is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        device: torch.device | str | None = None,
        conf: float = 0.4,
        box_nms_thresh: float = 0.7,
    ) -> None:
        self.check(path)
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        self._model: Any = _load(path)
        self._device = None if device is None else str(device)
        self._least, self._overlap = conf, box_nms_thresh

    @staticmethod
    def check(path: str | Path) -> None:
        """Raise a UserError if there is no such file, or no `ultralytics` to read it."""
        if find_spec("ultralytics") is None:
            raise UserError(
                "FastSAM needs the package ultralytics, which is under AGPL-3.0 and not installed with this one; "
                "install it with `pip install ultralytics`, or leave --fast_sam out"
            )
        if not Path(path).is_file() or Path(path).suffix != ".pt":
            raise UserError(f"there is no FastSAM at {path}; give a .pt file such as FastSAM-s.pt")

    def __call__(self, pixels: NDArray[np.uint8], photo: EncodedPhoto) -> list[Proposal]:
        """Propose masks; arguments and result as in the base class. The score is FastSAM's confidence."""
        image = Image.fromarray(pixels)
        image.thumbnail((SIDE, SIDE))
        (found,) = self._model.predict(
            image,
            imgsz=SIDE,
            device=self._device,
            conf=self._least,
            iou=0.9,
            retina_masks=True,  # masks of the image's own size
            verbose=False,
        )
        if found.masks is None:
            return []
        frame = Frame(photo.frame.height, photo.frame.width, SIDE, stretch=True)
        scored = zip(found.masks.data, found.boxes.conf.tolist(), strict=True)
        return without_duplicates(
            [Proposal(mask.float() - 0.5, frame, score) for mask, score in scored], self._overlap
        )


def _load(path: str | Path) -> Any:
    """Load a FastSAM, an `ultralytics.FastSAM`; that class itself loads other networks too."""
    try:
        model: Any = import_module("ultralytics").FastSAM(str(path))
    except Exception as error:  # ultralytics has no error of its own for damaged files
        if is_out_of_memory(error):
            raise
        raise UserError(f"ultralytics cannot load {path} ({first_line(error)}); give a FastSAM-s.pt") from error
    if model.task != "segment":
        raise UserError(f"{path} is a network for the task {model.task!r}, not a FastSAM; give a FastSAM-s.pt")
    return model
