"""COCO's ways of writing masks: polygons and run-length encodings."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from persam_dreambooth.errors import UserError


def coco_tools() -> Any:
    """The `mask` module of pycocotools.

    Raises:
        UserError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise UserError("COCO's masks need pycocotools, which is not installed; `pip install pycocotools`") from error
    return mask


def union_of(segmentations: list[Any], height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) bool, the union of masks.

    Args:
        segmentations: each a list of polygons [x0, y0, x1, y1, ...] in pixels, a run-length
            encoding (dictionary of `size` and `counts`, packed or not), or an (height, width) array.
        height, width: of the photo, in pixels.

    Raises:
        UserError: something else, or a mask of another size.
    """
    tools, union = coco_tools(), np.zeros((height, width), bool)
    for segmentation in segmentations:
        if isinstance(segmentation, np.ndarray):
            mask = segmentation > 0
        elif isinstance(segmentation, list):
            polygons = [np.asarray(polygon, dtype=float).ravel().tolist() for polygon in segmentation]
            mask = tools.decode(tools.merge(tools.frPyObjects(polygons, height, width))) > 0
        elif isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
            packed = isinstance(segmentation["counts"], str | bytes)
            mask = tools.decode(segmentation if packed else tools.frPyObjects(segmentation, height, width)) > 0
        else:
            raise UserError(
                f"a mask is polygons, a run-length encoding or an array, not {type(segmentation).__name__}"
            )
        if mask.shape != union.shape:
            raise UserError(f"a mask of {mask.shape} does not fit its photo of {union.shape} (height, width)")
        union |= mask
    return union
