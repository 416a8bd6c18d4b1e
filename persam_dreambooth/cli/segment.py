"""`persam-dreambooth segment`: find the subject of a reference photo in a folder of photos; writes masks."""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from persam_dreambooth.cli import guarded
from persam_dreambooth.cli.method_flags import MethodFlags
from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.cli.sam_flags import SamFlags
from persam_dreambooth.cli.segment_flags import SegmentFlags, TextFlags, WordFlags
from persam_dreambooth.errors import counted, printable
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestIndex

if TYPE_CHECKING:  # these import torch, which takes seconds, and --help does not need it
    from accelerate import PartialState

    from persam_dreambooth.preprocessing import SegmentationJob

ESSENTIAL = (
    "images",
    "reference",
    "reference_mask",
    "text",
    "output",
    "method",
    "features",
    "sam",
    "device",
    "recursive",
    "again",
    "subject_name",
)
EXAMPLE = "--images dog --output dog-masks \\\n    --reference dog/00.jpg --reference_mask dog-00.png"
NAMED = 10
"""Maximum number of uncertain photos named on the screen; the manifest has them all."""
GROUPS = [SegmentFlags, MethodFlags, SamFlags, TextFlags, WordFlags]


def run(program: str, argv: list[str]) -> None:
    """Segment, then print what was found and the paths."""
    text = "Find the subject of a reference photo in a folder of photos."
    flags, method, sam, texts, words = parse(GROUPS, argv, program, text, ESSENTIAL, EXAMPLE)
    sam.refuse_unread(method.method)
    most = max(Counter(flags.subject_name).values()) if flags.subject_name else len(flags.reference)
    method.refuse_unused(1 if flags.pick_reference else most, flags.embedding_cache)
    prompt = texts.prompt(flags.text, filters=bool(flags.ways()))
    from persam_dreambooth.preprocessing import SegmentationJob, segment_albums, segment_folder
    from persam_dreambooth.preprocessing.text_reference import with_reference
    from persam_dreambooth.segmentation import Agreement

    processes = _processes(sam.device)
    is_main = processes is None or processes.is_main_process
    job = SegmentationJob(
        images=Path(flags.images),
        references=(references := flags.references(prompt)),
        pick_reference=flags.pick_reference,
        names=tuple(flags.subject_name),
        output=Path(flags.output),
        sam=sam.sam,
        sam_size=sam.sam_size,
        method=method.chosen_method(),
        features=method.features,
        features_size=method.features_size,
        crop_n_layers=method.crop_n_layers,
        device=str(processes.device) if processes and sam.device is None else sam.device,
        dtype=sam.torch_dtype,
        batch_size=flags.batch_size,
        presence=Path(flags.presence) if flags.presence and not flags.agreement() else None,
        agreement=Agreement(flags.presence_features, flags.presence_features_size, flags.presence_exemplar)
        if flags.agreement()
        else None,
        all_instances=flags.all_instances,
        min_region=flags.min_region,
        draw=flags.draw,
        dataloader_num_workers=flags.dataloader_num_workers,
        embedding_cache=Path(flags.embedding_cache) if flags.embedding_cache else None,
        text=prompt if flags.ways() or not references else None,
    )
    suggester = words.suggester(job.device) if is_main else None  # a model that cannot be read is refused at once
    job = with_reference(job, job.albums() if flags.recursive else [job], flags.again)
    if is_main and not references:
        chosen = printable(str(job.references[0].image))
        print(f"reference: {chosen}; check its mask first, it was found by the phrase {flags.text!r}")
    if flags.recursive:
        jobs = segment_albums(job, processes, flags.again)
    else:
        segment_folder(job, processes, flags.again)
        jobs = [job]
    if is_main:
        for album in jobs:
            _say_unread(album, flags.recursive)
            for folder in album.subjects():
                _say(folder)
            words.suggest(suggester, album.subjects())


def _say_unread(job: "SegmentationJob", recursive: bool) -> None:
    """Print which files of a folder were not read, and without --recursive its subfolders too."""
    from persam_dreambooth.photos.files import unread_words

    unread = {path: why for path, why in job.unread().items() if not (recursive and path.is_dir())}
    if words := unread_words(unread):
        print(words)
    if not recursive and any(path.is_dir() for path in unread):
        print("--recursive reads the subfolders too")


def _processes(device: str | None) -> "PartialState | None":
    """Return Accelerate's state if `accelerate launch` or torchrun started several processes, else None."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return None
    from accelerate import PartialState

    return PartialState(cpu=device == "cpu")


def _say(folder: Path) -> None:
    """Print the results of a folder; the manifest is read line by line, since an album may be large."""
    from persam_dreambooth.preprocessing import SHEET_NAME

    count, uncertain = Counter[str](), list[str]()
    for entry in ManifestIndex(folder / MANIFEST_NAME):
        count["failed" if entry.error else "masks"] += 1
        count["empty"] += entry.error is None and entry.box is None and entry.was_found
        if entry.uncertain:
            count["uncertain"] += 1
            uncertain = [*uncertain, Path(entry.photo).name][:NAMED]
    left_out = f", {count['failed']} left out (see the manifest)" if count["failed"] else ""
    print(f"{counted(count['masks'], 'mask')} in {printable(str(folder / 'masks'))}{left_out}")
    if count["empty"]:
        print(f"{counted(count['empty'], 'mask')} empty: the subject was not found there")
    if uncertain:
        named = ", ".join(uncertain) + (" ..." if count["uncertain"] > NAMED else "")
        print(
            f"the subject is uncertain in {count['uncertain']} of them, which training leaves out: {printable(named)}"
        )
    print(f"look at them: {printable(str(folder / SHEET_NAME))}")


if __name__ == "__main__":  # accelerate launch -m persam_dreambooth.cli.segment
    sys.exit(guarded("persam-dreambooth segment", run, sys.argv[1:]))
