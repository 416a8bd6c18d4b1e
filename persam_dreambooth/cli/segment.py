"""`persam-dreambooth segment`: a folder of photos and one reference in, masks out."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import UserError
from persam_dreambooth.preprocessing import SegmentationJob, segment_folder
from persam_dreambooth.segmentation import Method


@dataclass
class SegmentFlags:
    """The verb's flags."""

    images: str | None = field(default=None, metadata={"help": "folder of photos"})
    reference: str | None = field(default=None, metadata={"help": "the one photo whose mask you have"})
    reference_mask: str | None = field(
        default=None, metadata={"help": "its mask: the subject painted on black, any colour, the photo's size"}
    )
    output: str | None = field(
        default=None, metadata={"help": "folder for masks/, overlays/, contact_sheet.png and manifest.jsonl"}
    )
    sam: str = field(
        default="facebook/sam-vit-huge",
        metadata={"help": "a SAM: hub name, folder, or original .pth checkpoint"},
    )
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda, cuda:1, mps; an accelerator is taken where there is one"}
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "precision of SAM's image encoder"}
    )
    batch_size: int = field(default=4, metadata={"help": "photos the image encoder sees at once"})
    fidelity: Literal["corrected", "official", "paper"] = field(
        default="corrected",
        metadata={
            "help": "corrected: right on photos of any shape; official: as the authors' code; paper: as printed"
        },
    )
    alpha: float = field(
        default=1.0, metadata={"help": "weight of the attention bias in equation 8; for --fidelity paper"}
    )
    negative_prior: bool = field(default=True, metadata={"help": "prompt with the least similar point as background"})
    refinement: bool = field(default=True, metadata={"help": "cascaded post-refinement, two further decoder passes"})
    guided_attention: bool = field(default=True, metadata={"help": "target-guided attention"})
    semantic_prompting: bool = field(default=True, metadata={"help": "target-semantic prompting"})

    def __post_init__(self) -> None:
        for name in ("images", "reference", "reference_mask", "output"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing; see --help")
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size} must be at least 1")


def run(program: str, argv: list[str]) -> None:
    """Segment, then say what was found and where it lies."""
    (flags,) = parse([SegmentFlags], argv, program, "Find the subject of one reference photo in a folder of photos.")
    output = Path(flags.output)
    entries = segment_folder(
        SegmentationJob(
            images=Path(flags.images),
            reference_image=Path(flags.reference),
            reference_mask=Path(flags.reference_mask),
            output=output,
            sam=flags.sam,
            method=Method(
                fidelity=flags.fidelity,
                negative_prior=flags.negative_prior,
                refinement=flags.refinement,
                guided_attention=flags.guided_attention,
                semantic_prompting=flags.semantic_prompting,
                alpha=flags.alpha,
            ),
            device=flags.device,
            dtype=getattr(torch, flags.dtype),
            batch_size=flags.batch_size,
        )
    )
    failed = sum(entry.error is not None for entry in entries)
    left_out = f", {failed} left out (see the manifest)" if failed else ""
    print(f"{len(entries) - failed} masks in {output / 'masks'}{left_out}")
    print(f"look at them: {output / 'contact_sheet.png'}")
