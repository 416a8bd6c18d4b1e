"""Flags of `segment`: photos, references, output, the phrase and the class noun for the subject."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from persam_dreambooth.errors import UserError, printable
from persam_dreambooth.flags import Flags, flag

if TYPE_CHECKING:  # these import torch, which takes seconds, and --help does not need it
    from persam_dreambooth.preprocessing.references import ReferenceFiles
    from persam_dreambooth.segmentation import ClassSuggester, TextPrompt

WAYS = ("reference_mask", "reference_box", "reference_points", "reference_scribble")
"""The flags other than `--text` that mark the subject in a reference photo."""

AGREEMENT = "agreement"
"""The value of `--presence` for agreement of several methods instead of a rule; a file of this name: `./agreement`."""


@dataclass
class SegmentFlags(Flags):
    """Flags of `segment`."""

    images: str | None = flag(None, "folder of photos")
    reference: list[str] = flag([], "one or several photos in which you mark the subject; or see --text")
    reference_mask: list[str] = flag(
        [], "the mask of each reference: the subject painted in any colour on black, in the photo's size"
    )
    reference_box: list[str] = flag(
        [], "instead of a mask: a box around the subject, as left,top,right,bottom in pixels"
    )
    reference_points: list[str] = flag(
        [], "instead of a mask: points; x,y on the subject, x,y,0 off it; for a single reference"
    )
    reference_scribble: list[str] = flag([], "instead of a mask: a scribble: strokes on the subject, drawn on black")
    text: str | None = flag(
        None,
        'a phrase for the subject, such as "a red mug". Without a mask, box, points or scribble, it finds the '
        "subject in the --reference or, without that, in the photo that fits the phrase best. With one of "
        "these, it is a filter: masks that do not fit the phrase count as not found",
    )
    pick_reference: bool = flag(False, "use only the reference that best finds the subject in the others")
    output: str | None = flag(None, "folder for masks/, overlays/, contact_sheet.png and manifest.jsonl")
    recursive: bool = flag(False, "segment the subfolders of --images too; each gets its own folder in --output")
    again: bool = flag(
        False,
        "reuse the output folder of another run: masks that you corrected or approved are kept, the others are redone",
    )
    batch_size: int = flag(4, "photos per batch of the image encoder", min=1)
    subject_name: list[str] = flag(
        [], "with several subjects: the name of the subject of each --reference; each gets its own folder"
    )
    presence: str | None = flag(
        None,
        "decide for each photo whether it shows the subject: the file of a presence rule, which `evaluate "
        "presence` makes (if unset, presence.json in the SAM's folder, for persam and persam-f without --features, "
        "--sam_size and --crop_n_layers); or agreement: INSID3 must find the subject at the same place, which needs "
        "a DINOv3 but no rule",
    )
    presence_features: str = flag("facebook/dinov3-vitl16-pretrain-lvd1689m", "the DINOv3 of --presence agreement")
    presence_features_size: int | None = flag(
        None, "side in pixels of the square that --presence_features sees; 64 of its patches if unset", min=1
    )
    presence_exemplar: str | None = flag(
        None,
        "for --presence agreement: a SAM 3, such as facebook/sam3, that must find the subject there too; it sees each "
        "photo next to the reference",
    )
    all_instances: bool = flag(False, "masks cover every instance of the subject; also writes instances/")
    min_region: int = flag(
        0,
        "fill holes and remove specks of fewer pixels than this, as SAM's mask generator does; 0 leaves them",
        min=0,
    )
    draw: Literal["mask", "confidence"] = flag(
        "mask",
        "mask: overlays/ shows the masks; confidence: also writes confidence/, which shows how much each place "
        "looks like the subject, from blue to yellow",
    )
    dataloader_num_workers: int = flag(0, "processes that decode photos; 0 decodes them in this one", min=0)
    embedding_cache: str | None = flag(None, "folder that caches encoded photos, for other subjects in the same album")

    def __post_init__(self) -> None:
        super().__post_init__()
        found_by_text = self.text is not None and not self.ways()
        self.require(("images", "output") if found_by_text else ("images", "reference", "output"))
        if self.pick_reference and len(self.reference) < 2:
            raise UserError("--pick_reference chooses among several; give more than one --reference, or drop it")
        self.agreement()
        if self.text is not None and self.subject_name:
            raise UserError("--text describes one subject; leave out --subject_name, or give masks instead of --text")
        if self.text is None or self.ways():
            self.references()

    def agreement(self) -> bool:
        """Return whether `--presence` is agreement; raise a UserError for a flag that has no effect without it."""
        agreement = self.presence == AGREEMENT
        for name in ("presence_features", "presence_features_size", "presence_exemplar"):
            if getattr(self, name) != type(self).__dataclass_fields__[name].default and not agreement:
                raise UserError(f"--{name} is for --presence {AGREEMENT}; give both, or leave it out")
        return agreement

    def ways(self) -> list[str]:
        """Return the names of the flags that were given to say where the subject is in the references."""
        return [name for name in WAYS if getattr(self, name)]

    def references(self, prompt: "TextPrompt | None" = None) -> "tuple[ReferenceFiles, ...]":
        """Return each reference photo with its mask, box, points or scribble, or with the phrase.

        Args:
            prompt: of `--text`.

        Raises:
            UserError: none of these flags was given, two were, or their number is not that of the photos.
        """
        from persam_dreambooth.preprocessing.references import ReferenceFiles

        given = self.ways()
        if prompt and not given:
            return tuple(ReferenceFiles(Path(image), text=prompt) for image in self.reference)
        if len(given) != 1:
            named = " and ".join(f"--{name}" for name in given)
            said = f"{named} were given, only one can be used" if given else "--reference_mask is missing"
            raise UserError(f"{said}; a reference needs one of {', '.join(f'--{name}' for name in (*WAYS, 'text'))}")
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
        raise UserError("--reference_points takes one --reference; for several, give masks, boxes or scribbles")


def _numbers(word: str, counts: tuple[int, ...], flag: str, form: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in word.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in counts:
        raise UserError(f"{flag} {word} is not {form}, in pixels and without spaces")
    return numbers


def _box(word: str) -> tuple[float, ...]:
    return _numbers(word, (4,), "--reference_box", "left,top,right,bottom")


def _point(word: str) -> tuple[float, float, int]:
    x, y, *label = _numbers(word, (2, 3), "--reference_points", "x,y or x,y,0")
    if label and label[0] not in (0, 1):
        raise UserError(f"--reference_points {word}: the third number must be 1 (on the subject) or 0 (background)")
    return x, y, int(label[0]) if label else 1


@dataclass
class TextFlags(Flags):
    """The model of `--text`."""

    _argument_group_name: ClassVar[str] = "the phrase"

    text_model: str = flag(
        "IDEA-Research/grounding-dino-tiny",
        "the model of --text, hub name or folder: a Grounding DINO, OWLv2, CLIPSeg or SAM 3",
    )
    text_threshold: float | None = flag(
        None,
        "score that a match of --text must exceed; if unset, 0.25 for Grounding DINO, 0.1 for OWLv2, 0.5 for CLIPSeg "
        "and 0.3 for SAM 3",
        min=0,
        max=1,
    )
    text_overlap: float = flag(
        0.5, "for --text with a reference: IoU that the box around a mask must reach with a match's box", min=0, max=1
    )

    def prompt(self, text: str | None, filters: bool) -> "TextPrompt | None":
        """Return the phrase with its settings; None without one.

        Args:
            text: the value of `--text`.
            filters: whether the subject is marked by other flags, so that the text only filters masks.

        Raises:
            UserError: a flag was given that would have no effect, or the phrase has no word.
        """
        for name in ("text_model", "text_threshold", "text_overlap"):
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                if text is None:
                    raise UserError(f"--{name} has no effect without --text; give a phrase, or leave it out")
                if name == "text_overlap" and not filters:
                    given = ", ".join(f"--{way}" for way in WAYS)
                    raise UserError(
                        f"--{name} is for a --text that filters the masks of a reference with one of {given}; "
                        "give one, or leave it out"
                    )
        if text is None:
            return None
        from persam_dreambooth.segmentation import TextPrompt

        return TextPrompt(text, self.text_model, self.text_threshold, self.text_overlap)


@dataclass
class WordFlags(Flags):
    """The class noun that the subject looks like."""

    _argument_group_name: ClassVar[str] = "class nouns"

    suggest_class: str | None = flag(
        None,
        "a CLIP or SigLIP, hub name or folder, such as openai/clip-vit-large-patch14: suggests nouns for the training "
        "prompts (looks like: corgi, dog, fox), which `train --class_prompt auto` reads",
    )
    vocabulary: str | None = flag(
        None,
        "text file from which --suggest_class chooses, one noun per line; if unset, the 1214 category names of LVIS "
        "and COCO",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocabulary and not self.suggest_class:
            raise UserError("--vocabulary holds the nouns of --suggest_class; give both, or leave it out")

    def suggester(self, device: str | None) -> "ClassSuggester | None":
        """Load the model of --suggest_class; None without it. Raises as `ClassSuggester.from_pretrained`."""
        if not self.suggest_class:
            return None
        from persam_dreambooth.segmentation import ClassSuggester

        return ClassSuggester.from_pretrained(self.suggest_class, self._vocabulary, device)

    def suggest(self, suggester: "ClassSuggester | None", folders: Iterable[Path]) -> None:
        """Suggest and print the class nouns of the subject in each output folder."""
        if suggester is None:
            return
        from persam_dreambooth.preprocessing.suggest_class import suggest_class

        for folder in folders:
            found = suggest_class(folder, suggester, str(self.suggest_class), self._vocabulary)
            words = found.words if found else "no class noun suggested, since no mask is certainly the subject's"
            print(f"{printable(str(folder))}: {printable(words)}")

    @property
    def _vocabulary(self) -> Path | None:
        return Path(self.vocabulary) if self.vocabulary else None
