"""`persam-dreambooth export`: photos and masks in another trainer's layout."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import UserError, printable
from persam_dreambooth.formats import CONVENTIONS, export_beside, export_folder, read_source
from persam_dreambooth.photos.names import is_text
from persam_dreambooth.words import counted, listed

TRAINERS = ", ".join(CONVENTIONS)
EXAMPLE = '--to kohya --masks dog-masks --instance_prompt "a sks dog" --output dog-kohya'


@dataclass
class ExportFlags:
    """Flags of `export`."""

    to: str | None = field(default=None, metadata={"help": f"the trainer: {TRAINERS}"})
    masks: str | None = field(
        default=None,
        metadata={"help": "the --output of `segment`, or a folder of masks with the photos' names"},
    )
    images: str | None = field(
        default=None, metadata={"help": "folder of photos; those in segment's manifest if unset"}
    )
    output: str | None = field(default=None, metadata={"help": "new folder for photos, masks and configuration"})
    in_place: bool = field(
        default=False,
        metadata={"help": "instead of --output: put masks beside the photos, which stay as they are (onetrainer)"},
    )
    include_doubtful: bool = field(
        default=False,
        metadata={"help": "keep photos in which segmentation is unsure of the subject; by default they are left out"},
    )
    caption_extension: str = field(
        default=".txt",
        metadata={"help": "extension of the caption files beside the photos; they are exported as .txt"},
    )
    instance_prompt: str | None = field(
        default=None, metadata={"help": "caption for photos without one, such as 'a sks dog'"}
    )

    def __post_init__(self) -> None:
        refuse_unknown("--to", self.to)
        if not self.masks:
            raise UserError(
                "--masks is missing; give the --output of `persam-dreambooth segment`, or a folder of masks"
            )
        if self.in_place == bool(self.output):
            raise UserError(
                "the target is missing; give a new folder as --output, or --in_place if the trainer allows it"
            )
        if self.in_place and self.instance_prompt:
            raise UserError("--in_place writes no captions; drop --instance_prompt, or give --output")
        if not re.fullmatch(r"\.[^/\\]+", self.caption_extension):
            raise UserError(f"--caption_extension {self.caption_extension} must be a dot and letters, such as .txt")
        if not is_text(self.instance_prompt or ""):
            raise UserError("--instance_prompt has bytes that are not UTF-8; write it again")


def refuse_unknown(flag: str, trainer: str | None) -> None:
    """Raise a UserError for a missing or unknown trainer."""
    if trainer is None:
        raise UserError(f"{flag} is missing; choose one of {TRAINERS}")
    if trainer not in CONVENTIONS:
        raise UserError(f"{flag} {trainer} is unknown; choose one of {TRAINERS}")


def run(program: str, argv: list[str]) -> None:
    """Export, then print the trainer's configuration."""
    text = "Export photos and masks for another trainer."
    (flags,) = parse([ExportFlags], argv, program, text, example=EXAMPLE)
    convention = CONVENTIONS[flags.to]
    images = Path(flags.images) if flags.images else None
    source = read_source(Path(flags.masks), images, flags.caption_extension, flags.include_doubtful)
    if flags.in_place:
        exported, where = export_beside(source, convention), "the photos' folder"
    else:
        exported, where = export_folder(source, convention, Path(flags.output), flags.instance_prompt), flags.output
    for reason in source.left_out.values():
        print(f"left out: {printable(reason)}")
    for words in (*source.unread_words((Path(flags.masks),)), *exported.warnings):
        print(printable(words))
    print(f"{counted(exported.count, 'photo')} with masks for {convention.title}, in {printable(where)}")
    if exported.without_words and exported.config:
        remedy = "write .txt files beside them" if flags.in_place else "--instance_prompt gives them one"
        print(f"without a caption: {shortened(exported.without_words)}; {remedy}")
    if exported.config:
        lines = map(printable, exported.snippet.rstrip().split("\n"))
        print(f"what the trainer needs to know is in {printable(str(exported.config))}:\n", *lines, sep="\n")


def shortened(names: list[str]) -> str:
    """Return the first names, escaped, and the number of the others."""
    return printable(listed(names))
