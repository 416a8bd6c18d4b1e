"""`persam-dreambooth video`: follow subjects through a video; writes a mask per frame and an overlay video."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from persam_dreambooth.cli.export import shortened
from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.cli.sam_flags import SamFlags
from persam_dreambooth.errors import UserError, counted, printable
from persam_dreambooth.flags import Flags, flag
from persam_dreambooth.method_names import PERSAM_F, SEGGPT, SEGGPT_MODEL

if TYPE_CHECKING:  # torch takes seconds to import, and --help does not need it
    from persam_dreambooth.preprocessing.segment_video import Followed
    from persam_dreambooth.segmentation import OneShotSegmenter, Subject

ESSENTIAL = ("video", "first_mask", "subject", "output", "method", "sam", "memory", "lost_below", "device")
EXAMPLE = "--video dog.mp4 --output dog-video \\\n    --first_mask dog-first-frame.png"


@dataclass
class VideoFlags(Flags):
    """Flags of `video`."""

    video: str | None = flag(None, "a video file, or a folder of frames")
    first_mask: str | None = flag(
        None, "where the subjects are in the first frame: one mask, or a palette PNG with labels 1, 2, ..."
    )
    subject: list[str] = flag(
        [],
        "instead of --first_mask: subjects that `segment` saved (subject.safetensors), which are searched for "
        "in all frames",
    )
    output: str | None = flag(None, "folder for masks/, frames.jsonl and overlay.mp4")
    method: Literal["persam-f", "seggpt"] = flag(
        PERSAM_F,
        "how the subjects of --first_mask are followed: persam-f: as by PerSAM's authors; seggpt: by a SegGPT "
        "that sees the first frame and the last few. Saved subjects are followed by the method that made "
        "them",
    )
    seggpt: str | None = flag(
        None,
        "the SegGPT, as for `segment`; if unset, the one that made the saved subjects, or " + SEGGPT_MODEL,
    )
    memory_frames: int | None = flag(None, "SegGPT only: how many of the last frames it sees; 8 if unset", min=0)
    memory: str | None = flag(
        None,
        "follow with the learned memory of this SAM 2 or EdgeTAM video model (hub name or folder), "
        "instead of with the authors' method; --sam is then used only for --subject",
    )
    features: str | None = flag(
        None, "the --features model that the subjects were made with; if unset, the one named in INSID3's subjects"
    )
    features_size: int | None = flag(None, "the --features_size that the subjects were made with", min=1)
    lost_below: float = flag(
        0.7,
        "mask quality (predicted IoU) below which a subject counts as lost until it is found again; at 0 none is ever "
        "lost; with --memory and --subject: minimum quality of the mask with which following a subject begins",
        min=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(("video", "output"))
        if (self.features or self.features_size) and not self.subject:
            raise UserError("--features and --features_size are those of saved subjects; give --subject, or drop them")
        if self.method != PERSAM_F and not self.first_mask:
            raise UserError(
                "--method is for --first_mask; saved subjects are followed by the method that made them; drop it"
            )
        if self.method != PERSAM_F and self.memory:
            raise UserError("--memory follows --first_mask without another method; leave out --method, or --memory")
        if bool(self.first_mask) == bool(self.subject):
            raise UserError("a video takes its subjects from one flag; give --first_mask, or --subject")


GROUPS = [VideoFlags, SamFlags]


def run(program: str, argv: list[str]) -> None:
    """Segment the video, then print the paths."""
    flags, sam = parse(GROUPS, argv, program, "Follow subjects through a video.", ESSENTIAL, EXAMPLE)
    from persam_dreambooth.photos.listing import unread_files, unread_words
    from persam_dreambooth.preprocessing.segment_video import LOG_NAME, MASKS, OVERLAY_NAME, segment_video
    from persam_dreambooth.segmentation import Subject
    from persam_dreambooth.segmentation.memory_video import load_video_model
    from persam_dreambooth.torch_utils import choose_device

    subjects = [Subject.load(path, choose_device(sam.device)) for path in flags.subject] or None
    # A memory follows subjects whose first mask is given without any other method.
    _refuse_unread(flags, sam, subjects)
    method = None if flags.memory and flags.first_mask else _method(flags, sam, subjects)
    memory = load_video_model(flags.memory, sam.device, sam.torch_dtype) if flags.memory else None
    output = Path(flags.output)
    first_mask = Path(flags.first_mask) if flags.first_mask else None
    followed = segment_video(method, Path(flags.video), output, subjects, first_mask, flags.lost_below or None, memory)
    where = printable(str(output))
    print(f"{counted(followed.count, 'frame')} in {where}/{MASKS}, scores in {where}/{LOG_NAME}")
    for line in lost_lines(followed, flags, by_score=not _with_seggpt(flags, subjects)):
        print(line)
    if Path(flags.video).is_dir() and (words := unread_words(unread_files(Path(flags.video), (output,)))):
        print(words)
    print(f"look at them: {where}/{OVERLAY_NAME}")


def lost_lines(followed: "Followed", flags: VideoFlags, by_score: bool = True) -> list[str]:
    """Return a line per subject with the frames in which it was lost, and one for the flag that changes that.

    Args:
        followed: what was found.
        flags: of the run.
        by_score: whether `--lost_below` decides; SegGPT's subjects are lost where their mask is empty.
    """
    lines = [
        f"subject {number} was not found in {len(lost)} of {counted(followed.count, 'frame')}: {ranges(lost)}"
        for number, lost in enumerate(followed.lost, start=1)
        if lost
    ]
    if not lines or flags.lost_below <= 0 or not by_score:
        return lines
    if not flags.memory:
        lines.append(f"a lower --lost_below (now {flags.lost_below:g}) keeps masks of lower quality, 0 every mask")
    elif flags.subject:
        lines.append(f"a lower --lost_below (now {flags.lost_below:g}) lets a subject join in an earlier frame")
    return lines


def ranges(numbers: list[int]) -> str:
    """Format ascending numbers as 3-5, 9; only the first ranges if there are many."""
    known = set(numbers)
    starts = [number for number in numbers if number - 1 not in known]
    ends = [number for number in numbers if number + 1 not in known]
    words = [str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True)]
    return shortened(words)


def _method(flags: VideoFlags, sam: SamFlags, subjects: "list[Subject] | None") -> "OneShotSegmenter":
    """Load the method that made the subjects, or without subjects the one of `--method`.

    INSID3's subjects are followed with the SAM for the outline.
    """
    from persam_dreambooth.segmentation import AnyMethod, Insid3Method, Method, SegGptMethod, load_segmenter

    features = flags.features
    method: AnyMethod = Method.persam_f()
    if _with_seggpt(flags, subjects):
        model = flags.seggpt or (subjects[0].backbone if subjects else SEGGPT_MODEL)
        frames = SegGptMethod.memory_frames if flags.memory_frames is None else flags.memory_frames
        method = SegGptMethod(model, memory_frames=frames)
    elif subjects and subjects[0].made_by == "INSID3":
        features, method = features or subjects[0].backbone, Insid3Method(with_sam=True)
    elif subjects and subjects[0].made_by == "PerSAM":
        method = Method()
    return load_segmenter(
        method, sam.sam, features, flags.features_size, sam.device, sam.torch_dtype, sam_size=sam.sam_size
    )


def _with_seggpt(flags: VideoFlags, subjects: "list[Subject] | None") -> bool:
    return subjects[0].made_by == "SegGPT" if subjects else flags.method == SEGGPT


def _refuse_unread(flags: VideoFlags, sam: SamFlags, subjects: "list[Subject] | None") -> None:
    """Refuse flags that are not read with SegGPT, or only with it."""
    if not _with_seggpt(flags, subjects):
        for name in ("seggpt", "memory_frames"):
            if getattr(flags, name) is not None:
                raise UserError(f"--{name} is read by SegGPT only; leave it out, or give --method seggpt")
        return
    sam.refuse_unread(SEGGPT, ("sam", "sam_size") if flags.memory else ("sam", "sam_size", "dtype"))
    plain = type(flags).__dataclass_fields__
    unread = ["lost_below", "features", "features_size", *(["memory_frames"] if flags.memory else [])]
    for name in unread:
        if getattr(flags, name) != plain[name].default:
            raise UserError(
                f"--{name} has no effect on SegGPT's subjects{' with --memory' * (name == 'memory_frames')}; drop it"
            )
