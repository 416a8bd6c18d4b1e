"""`persam-dreambooth segment`: a folder of photos and one reference in, masks out."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import UserError
from persam_dreambooth.preprocessing import SegmentationJob, segment_folder
from persam_dreambooth.references import ReferenceFiles
from persam_dreambooth.segmentation import Method


@dataclass
class SegmentFlags:
    """The verb's flags."""

    images: str | None = field(default=None, metadata={"help": "folder of photos"})
    reference: list[str] = field(
        default_factory=list, metadata={"help": "a photo in which you say where the subject is; or several"}
    )
    reference_mask: list[str] = field(
        default_factory=list,
        metadata={"help": "its mask: the subject painted on black, any colour, the photo's size; one for each"},
    )
    reference_box: list[str] = field(
        default_factory=list,
        metadata={"help": "instead of a mask, the box around the subject as left,top,right,bottom in pixels"},
    )
    reference_points: list[str] = field(
        default_factory=list,
        metadata={"help": "or points on it as x,y, and beside it as x,y,0; of one reference"},
    )
    reference_scribble: list[str] = field(
        default_factory=list, metadata={"help": "or a drawing, on black, whose strokes lie on the subject"}
    )
    pick_reference: bool = field(
        default=False, metadata={"help": "of several references use only the one that best finds the others' subject"}
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
    method: Literal["persam", "persam-f"] = field(
        default="persam",
        metadata={"help": "training-free, or with the two weights of PerSAM-F, fitted on the reference in a second"},
    )
    fidelity: Literal["corrected", "official", "paper"] = field(
        default="corrected",
        metadata={
            "help": "corrected: right on photos of any shape; official: as the authors' code; paper: as printed"
        },
    )
    alpha: float = field(
        default=1.0, metadata={"help": "weight of the attention bias in equation 8; for --fidelity paper"}
    )
    refinement: bool = field(default=True, metadata={"help": "cascaded post-refinement, two further decoder passes"})
    negative_prior: bool = field(
        default=True, metadata={"help": "of persam: prompt with the least similar point as background"}
    )
    guided_attention: bool = field(default=True, metadata={"help": "of persam: target-guided attention"})
    semantic_prompting: bool = field(default=True, metadata={"help": "of persam: target-semantic prompting"})

    def __post_init__(self) -> None:
        for name in ("images", "reference", "output"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing; see --help")
        if self.pick_reference and len(self.reference) < 2:
            raise UserError("--pick_reference chooses among several; give more than one --reference, or drop it")
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size} must be at least 1")
        self.references()

    def references(self) -> tuple[ReferenceFiles, ...]:
        """Each reference photo with what says where its subject is.

        Raises:
            UserError: nothing says so, two flags do, or they are more or fewer than the photos.
        """
        ways = ("reference_mask", "reference_box", "reference_points", "reference_scribble")
        given = [name for name in ways if getattr(self, name)]
        if len(given) != 1:
            named = " and ".join(f"--{name}" for name in given)
            said = f"{named} were given, only one can be used" if given else "--reference_mask is missing"
            raise UserError(f"{said}; a reference needs one of {', '.join(f'--{name}' for name in ways)}")
        (way,) = given
        images, values = [Path(image) for image in self.reference], getattr(self, way)
        if way == "reference_points" and len(images) == 1:
            return (ReferenceFiles(images[0], points=tuple(_point(word) for word in values)),)
        if len(values) != len(images):
            raise UserError(f"{len(images)} of --reference and {len(values)} of --{way} were given; give one for each")
        pairs = list(zip(images, values, strict=True))
        if way == "reference_mask":
            return tuple(ReferenceFiles(image, mask=Path(value)) for image, value in pairs)
        if way == "reference_scribble":
            return tuple(ReferenceFiles(image, scribble=Path(value)) for image, value in pairs)
        if way == "reference_box":
            return tuple(ReferenceFiles(image, box=_box(value)) for image, value in pairs)
        raise UserError("--reference_points takes one --reference; of several give masks, boxes or scribbles")

    def chosen_method(self) -> Method:
        """PerSAM with its techniques, or PerSAM-F."""
        if self.method == "persam-f":
            return Method.persam_f(self.fidelity, self.refinement)
        return Method(
            fidelity=self.fidelity,
            negative_prior=self.negative_prior,
            refinement=self.refinement,
            guided_attention=self.guided_attention,
            semantic_prompting=self.semantic_prompting,
            alpha=self.alpha,
        )


def _numbers(word: str, counts: tuple[int, ...], flag: str, form: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in word.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in counts:
        raise UserError(f"{flag} {word} is not {form}, in pixels and without blanks")
    return numbers


def _box(word: str) -> tuple[float, ...]:
    return _numbers(word, (4,), "--reference_box", "left,top,right,bottom")


def _point(word: str) -> tuple[float, float, int]:
    x, y, *label = _numbers(word, (2, 3), "--reference_points", "x,y or x,y,0")
    if label and label[0] not in (0, 1):
        raise UserError(f"--reference_points {word}: the third number is 1 on the subject and 0 beside it")
    return x, y, int(label[0]) if label else 1


def run(program: str, argv: list[str]) -> None:
    """Segment, then say what was found and where it lies."""
    (flags,) = parse([SegmentFlags], argv, program, "Find the subject of a reference photo in a folder of photos.")
    output = Path(flags.output)
    entries = segment_folder(
        SegmentationJob(
            images=Path(flags.images),
            references=flags.references(),
            pick_reference=flags.pick_reference,
            output=output,
            sam=flags.sam,
            method=flags.chosen_method(),
            device=flags.device,
            dtype=getattr(torch, flags.dtype),
            batch_size=flags.batch_size,
        )
    )
    failed = sum(entry.error is not None for entry in entries)
    left_out = f", {failed} left out (see the manifest)" if failed else ""
    print(f"{len(entries) - failed} masks in {output / 'masks'}{left_out}")
    print(f"look at them: {output / 'contact_sheet.png'}")
