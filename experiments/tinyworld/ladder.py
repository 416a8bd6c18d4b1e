"""PerSAM's techniques one by one in tinyworld, by PerSeg's protocol: the paper's ablation, and box references.

    python experiments/tinyworld/ladder.py

The subjects and photos are those of `finders.py`. Prints mean IoU with 95 % intervals (bootstrap over subjects).
"""

from dataclasses import replace

from finders import box_mask, common_flags, compare, finder, table, tiny_dino, tiny_sam
from measures import percent
from persam_dreambooth.segmentation import Method, PerSAM, load_backbone

BARE = Method(negative_prior=False, refinement=False, guided_attention=False, semantic_prompting=False)
LADDER = {
    "positive prior": BARE,
    "+ negative prior": replace(BARE, negative_prior=True),
    "+ cascaded post-refinement": replace(BARE, negative_prior=True, refinement=True),
    "+ target-guided attention": replace(BARE, negative_prior=True, refinement=True, guided_attention=True),
    "+ target-semantic prompting (all of PerSAM)": Method(),
    "PerSAM-F, as released": Method.persam_f(),
    "all of PerSAM, as printed": Method(fidelity="paper"),
    "PerSAM-F, as printed": Method.persam_f("paper"),
}
BOXED = "all of PerSAM, reference given as a box"


def main() -> None:
    """Evaluate each step of the ladder and print the table."""
    parser = common_flags(__doc__, 24)
    parser.add_argument("--features", action="store_true", help="locate with the features of tinyworld's DINOv3")
    parser.add_argument("--only", nargs="+", choices=[*LADDER, BOXED], help="rows to measure (all)")
    flags = parser.parse_args()
    sam, features = load_backbone(tiny_sam(), "cpu"), tiny_dino() if flags.features else None
    finders = {name: finder(PerSAM(sam, method, features)) for name, method in LADDER.items()}
    finders[BOXED] = finder(PerSAM(sam, features=features), lambda picture: box_mask(sam, picture))
    chosen = {name: find for name, find in finders.items() if name in (flags.only or finders)}
    scores = compare(chosen, flags.subjects, flags.photos)
    print(table(scores, lambda name, company: percent([iou for iou, _ in scores[name][company]])))


if __name__ == "__main__":
    main()
