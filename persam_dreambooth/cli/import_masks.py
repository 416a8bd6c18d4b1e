"""`persam-dreambooth import`: another trainer's photos and masks, to train on or to edit here."""

from dataclasses import dataclass
from pathlib import Path

from persam_dreambooth.cli.export import TRAINERS, refuse_unknown, shortened
from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import UserError, counted, printable
from persam_dreambooth.flags import Flags, flag
from persam_dreambooth.formats import IMAGES, import_masks


@dataclass
class ImportFlags(Flags):
    """Flags of `import`."""

    from_: str | None = flag(None, f"the trainer: {TRAINERS}", spelling="--from")
    input: str | None = flag(
        None, "the trainer's folder: its photos, or images/ and masks/ in it, or the JSON file that lists them"
    )
    images: str | None = flag(None, "folder of the photos, if it is not where the trainer expects it")
    masks: str | None = flag(None, "folder of the masks, if it is not where the trainer expects it")
    category: str | None = flag(None, "the subject's category, if a COCO file has several")
    output: str | None = flag(None, "new folder for images/, masks/ and manifest.jsonl")

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unknown("--from", self.from_)
        if not self.input and not self.images:
            raise UserError("--input is missing; give the folder that holds the trainer's photos and masks")
        if not self.output:
            raise UserError("--output is missing; give a new folder")


def run(program: str, argv: list[str]) -> None:
    """Import, then print the flags to train on it."""
    text = "Import another trainer's photos and masks, to train on them here."
    (flags,) = parse([ImportFlags], argv, program, text, example="--from kohya --input dog-kohya --output dog")
    imported = import_masks(
        flags.input or flags.images,
        flags.output,
        flags.from_,
        images=flags.images or None,
        masks=flags.masks or None,
        category=flags.category,
    )
    output, photos = (printable(str(path)) for path in (flags.output, Path(flags.output) / IMAGES))
    print(f"{counted(imported.count, 'photo')} with masks in {output}")
    if imported.grey:
        pixels = counted(sum(imported.grey.values()), "pixel")
        print(f"grey levels are kept as weights, {pixels} neither black nor white: {shortened(list(imported.grey))}")
    if imported.empty:
        print(f"empty masks, which training refuses: {shortened(imported.empty)}")
    for words in (*imported.unread, *imported.looks.warnings()):
        print(printable(words))
    prompts = " --caption_extension .txt" if len(imported.without_words) < imported.count else ""
    prompts += ' --instance_prompt "a sks dog"' if imported.without_words else ""
    print(f"train on them: --instance_data_dir {photos} --instance_mask_dir {output}{prompts}")
