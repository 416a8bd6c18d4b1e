"""Run tinyworld's SAM on more than the 64 x 64 pixels that it was trained with.

    python experiments/tinyworld/larger_input.py

The photos have 128 x 128 pixels; they and the subjects are those of `finders.py`. Prints mean IoU, in percent, of
PerSAM, which locates with the features of tinyworld's DINOv3, and of the SAM given the subject's true box; then
the change against 64 pixels with its 95 % interval (bootstrap over subjects).
"""

import numpy as np

from finders import Company, Scores, common_flags, compare, finder, table, tiny_dino, tiny_sam, with_true_box
from measures import interval
from persam_dreambooth.segmentation import PerSAM, load_backbone

TRAINED = 64


def larger(subjects: int, count: int) -> Scores:
    """Segment every subject's photos with the SAM at each size; the scores are named "METHOD, SIZE"."""
    sam, dino, found, boxed = tiny_sam(), tiny_dino(), {}, {}
    for side in (TRAINED, 96, 128):
        backbone = load_backbone(sam, "cpu", size=None if side == TRAINED else side)
        found[f"PerSAM, {side}"] = finder(PerSAM(backbone, features=dino))
        boxed[f"true box, {side}"] = with_true_box(backbone)
    return compare(found | boxed, subjects, count)


def change(scores: Scores, name: str, company: Company) -> str:
    """Format a mean IoU and its change against the trained size: "95.6 +1.0 [+0.6, +1.5]"."""
    method, side = name.split(", ")
    ious, trained = (np.array([iou for iou, _ in scores[row][company]]) for row in (name, f"{method}, {TRAINED}"))
    mean = f"{100 * ious.mean():.1f}"
    if int(side) == TRAINED:
        return mean
    gained, low, high = (100 * value for value in interval(list(ious - trained)))
    return f"{mean} {gained:+.1f} [{low:+.1f}, {high:+.1f}]"


def main() -> None:
    """Compare and print the table."""
    flags = common_flags(__doc__, 24).parse_args()
    scores = larger(flags.subjects, flags.photos)
    print(table(scores, lambda name, company: change(scores, name, company)))


if __name__ == "__main__":
    main()
