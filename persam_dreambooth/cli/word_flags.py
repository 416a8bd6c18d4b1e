"""Flags of `segment` about words: the class noun that the subject looks like."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from persam_dreambooth.errors import UserError, printable
from persam_dreambooth.flags import Flags, flag

if TYPE_CHECKING:  # importing torch takes seconds, and --help does not need it
    from persam_dreambooth.segmentation import ClassSuggester


@dataclass
class WordFlags(Flags):
    """Words for the subject."""

    _argument_group_name: ClassVar[str] = "words"

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
            raise UserError("--vocabulary holds the nouns of --suggest_class; give that too, or leave it out")

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
