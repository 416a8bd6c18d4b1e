"""`persam-dreambooth export`: photos and masks in another trainer's layout."""

from dataclasses import dataclass

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import UserError, counted, listed, printable
from persam_dreambooth.flags import Flags, flag
from persam_dreambooth.formats import CONVENTIONS, export_masks
from persam_dreambooth.text_files import check_caption_extension, is_text

TRAINERS = ", ".join(CONVENTIONS)
EXAMPLE = '--to kohya --masks dog-masks --output dog-kohya \\\n    --instance_prompt "a sks dog"'


@dataclass
class ExportFlags(Flags):
    """Flags of `export`."""

    to: str | None = flag(None, f"the trainer: {TRAINERS}")
    masks: str | None = flag(None, "the --output of `segment`, or a folder of masks with the photos' names")
    images: str | None = flag(None, "folder of photos; if unset, the photos listed in segment's manifest")
    output: str | None = flag(None, "new folder for photos, masks and configuration")
    in_place: bool = flag(
        False, "instead of --output: put masks next to the photos, which stay unchanged (onetrainer)"
    )
    include_uncertain: bool = flag(
        False,
        "keep photos in which segmentation is unsure of the subject or did not find it; by default they are left out",
        old_names=["include_doubtful"],
    )
    caption_extension: str = flag(
        ".txt", "extension of the caption files next to the photos; they are exported as .txt"
    )
    instance_prompt: str | None = flag(None, "caption for photos without one, such as 'a sks dog'")

    def __post_init__(self) -> None:
        super().__post_init__()
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
        check_caption_extension(self.caption_extension)
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
    exported = export_masks(
        flags.masks,
        None if flags.in_place else flags.output,
        flags.to,
        images=flags.images or None,
        caption_extension=flags.caption_extension,
        instance_prompt=flags.instance_prompt,
        include_uncertain=flags.include_uncertain,
    )
    where = "the photos' folder" if flags.in_place else flags.output
    for reason in exported.left_out:
        print(f"left out: {printable(reason)}")
    for words in (*exported.unread, *exported.warnings):
        print(printable(words))
    print(f"{counted(exported.count, 'photo')} with masks for {convention.title}, in {printable(where)}")
    if exported.without_words and exported.config:
        remedy = "write .txt files next to them" if flags.in_place else "--instance_prompt gives them one"
        print(f"without a caption: {shortened(exported.without_words)}; {remedy}")
    if exported.config:
        lines = map(printable, exported.snippet.rstrip().split("\n"))
        print(f"lines for the trainer's configuration, in {printable(str(exported.config))}:\n", *lines, sep="\n")


def shortened(names: list[str]) -> str:
    """Return the first names, escaped, and the number of the others."""
    return printable(listed(names))
