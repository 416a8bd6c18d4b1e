"""The numbers that PerSAM's authors report with SAM ViT-H, in percent (Zhang et al., arXiv 2305.03048)."""

from typing import Final

PAPER: Final[dict[str, dict[str, dict[str, float]]]] = {
    "perseg": {"persam": {"mIoU": 89.3, "bIoU": 71.7}, "persam-f": {"mIoU": 95.3, "bIoU": 77.9}},
    "davis": {"persam": {"J&F": 66.9}, "persam-f": {"J&F": 76.1}},
    "fss": {"persam": {"mIoU": 81.6}, "persam-f": {"mIoU": 86.3}},
    "lvis92": {"persam": {"mIoU": 15.6}, "persam-f": {"mIoU": 18.4}},
    "pascal-part": {"persam": {"mIoU": 32.5}, "persam-f": {"mIoU": 32.9}},
    "paco-part": {"persam": {"mIoU": 22.5}, "persam-f": {"mIoU": 22.7}},
}
"""The numbers that PerSAM's authors report with SAM ViT-H, in percent (Zhang et al., arXiv 2305.03048).

Benchmark -> method -> measure.
"""

PAPER_ABLATIONS: Final[dict[str, float]] = {
    "positive-prior": 69.1,
    "negative-prior": 72.5,
    "refinement": 83.9,
    "guided-attention": 85.8,
    "persam": 89.3,
    "prompt-tokens": 76.5,
    "adapters": 78.3,
    "lora": 90.0,
    "three-weights": 92.9,
    "persam-f": 95.3,
    "persam-box": 88.1,
    "persam-f-box": 94.9,
}
"""Their mIoU on PerSeg by method of `ablation.py` (tables 4, 5 and 6)."""
