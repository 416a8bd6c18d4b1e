"""Flags of `segment` for a phrase that describes the subject."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import Flags, flag

if TYPE_CHECKING:  # importing torch takes seconds, and --help does not need it
    from persam_dreambooth.segmentation import TextPrompt

WAYS = ("reference_mask", "reference_box", "reference_points", "reference_scribble")
"""The other flags that say where the subject is in a reference photo."""


@dataclass
class TextFlags(Flags):
    """The model of `--text`."""

    _argument_group_name: ClassVar[str] = "the text"

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
            filters: whether the reference is given otherwise, so that the text only filters masks.

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
