"""The class nouns suggested for a subject, in a small file beside its masks."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos.files import write_json
from persam_dreambooth.text_files import is_text, read_bounded, with_article

SUGGESTION_NAME: Final = "class_suggestion.json"


@dataclass(frozen=True)
class ClassSuggestion:
    """The nouns that are most similar to a subject.

    Attributes:
        nouns: the best first; at least one.
        scores: mean cosine similarity of each with the subject's cut-outs.
        model: hub name or folder of the CLIP or SigLIP that compared them.
        vocabulary: file of the nouns to choose from; None for the names of LVIS's and COCO's categories.
    """

    nouns: tuple[str, ...]
    scores: tuple[float, ...]
    model: str
    vocabulary: str | None = None

    @property
    def prompt(self) -> str:
        """The class prompt with the best noun: "a dog"."""
        return with_article(self.nouns[0])

    @property
    def words(self) -> str:
        """The suggestion in words: "looks like: corgi, dog, fox"."""
        return f"looks like: {', '.join(self.nouns)}"

    def save(self, folder: Path) -> None:
        """Write `class_suggestion.json` into a subject's output folder."""
        write_json(asdict(self), folder / SUGGESTION_NAME)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the suggestion of a subject's output folder; None if there is none that can be read."""
        try:
            values = json.loads(read_bounded(folder / SUGGESTION_NAME))
            nouns = tuple(values.pop("nouns"))
            found = cls(nouns, tuple(values.pop("scores")), **values)
        except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError):
            return None
        fits = bool(nouns) and all(isinstance(noun, str) and noun.strip() and is_text(noun) for noun in nouns)
        return found if fits else None


def find_suggestion(masks: Path) -> ClassSuggestion | None:
    """Find the suggestion that belongs to a folder of masks.

    Args:
        masks: an output folder of `segment`, its subfolder `masks`, or a folder of several output folders, of which
            the first with a suggestion counts.

    Returns:
        The suggestion; None if there is none that can be read.
    """
    inside = sorted(path for path in masks.iterdir() if path.is_dir()) if masks.is_dir() else []
    folders = [masks, *([masks.parent] if masks.name == "masks" else []), *inside]
    return next((found for folder in folders if (found := ClassSuggestion.read(folder)) is not None), None)


def suggested_prompt(masks: str | None) -> str:
    """Return the class prompt of the suggestion that belongs to `--instance_mask_dir`.

    Raises:
        UserError: the flag is not given, or there is no suggestion.
    """
    found = find_suggestion(Path(masks)) if masks else None
    if found is None:
        where = f"{masks} has none" if masks else "--instance_mask_dir is not given"
        raise UserError(
            f"--class_prompt auto reads the class noun beside the masks, but {where}; make one with "
            "`persam-dreambooth segment --suggest_class openai/clip-vit-large-patch14`, or give a prompt such as "
            '"a dog"'
        )
    return found.prompt
