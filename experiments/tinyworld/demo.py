"""The demo: every step from photos to a report, on two cores and without a network, like the paper's Figure 10.

    python experiments/tinyworld/demo.py --output demo

From five drawn photos of a dog on a sofa and one mask, it finds the dog in all photos, trains one model
without masks and one with them, generates images of the dog in four other scenes with both, and measures
them. The models are tinyworld's small trained ones; the commands and files are the same as for real models.
"""

import argparse
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from albums import Album, albums, save_album
from experiment import overlaps
from loading import check
from measures import fidelity, measure
from models import DIFFUSION, SAM
from persam_dreambooth.cli import main as persam_dreambooth
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from report import write_report
from scenes import PHRASES

SCENES = ("jungle", "snow", "beach", "night")
PICTURES = 2
"""Images per scene."""


@dataclass(frozen=True)
class Row:
    """The images of one training and their scores in [0, 1]."""

    title: str
    folder: Path
    scenes: float
    fidelity: float

    def pictures(self) -> list[Path]:
        """Return the images' paths, scene by scene in the order of `SCENES`."""
        return [path for scene in SCENES for path in sorted(self.folder.glob(f"*{PHRASES[scene].split()[-1]}-*.png"))]


def run(output: Path, steps: int) -> list[str]:
    """Segment, train twice, generate twice, write the report; return the lines that summarize it."""
    sam, diffusion = check(SAM), check(DIFFUSION)
    album = albums()[0]
    photos, masks = save_album(album, output)
    reference, mask = photos / "00.png", masks / "00.png"
    step("1/3  find the dog in every photo, from one mask")
    call("segment", images=photos, reference=reference, reference_mask=mask, sam=sam, output=output / "found")
    overlap = np.mean(overlaps(album, output))
    step("2/3  train on all pixels, then on the dog alone")
    dog = f"a sks {album.identity.kind}"
    common = {
        "pretrained_model_name_or_path": diffusion,
        "instance_data_dir": photos,
        "instance_prompt": dog,
        "resolution": 64,
        "train_batch_size": 4,
        "max_train_steps": steps,
        "learning_rate": 4.5e-4,
        "lr_warmup_steps": 0,
        "seed": 0,
        "report_to": "none",
    }
    call("train", "--no_masked_loss", **common, output_dir=output / "without-masks")
    masked = {"instance_mask_dir": output / "found", "class_prompt": f"a {album.identity.kind}"}
    call("train", **common, **masked, background_prior_weight=1.0, output_dir=output / "with-masks")
    step("3/3  let both draw the dog in four other places")
    rows = []
    for folder, title in (("without-masks", "without masks"), ("with-masks", "with masks")):
        drawn = output / f"{folder}-pictures"
        settings = {"num_images": PICTURES, "num_inference_steps": 20, "guidance_scale": 4.0, "height": 64}
        prompts = album.prompts(list(SCENES))
        call("generate", "--prompt", *prompts, model=output / folder, output=drawn, width=64, **settings)
        rows.append(score(album, title, drawn))
    lines = [
        f"the dog found from one mask: IoU {overlap:.2f} with the truth, mean of {len(album.pictures) - 1} photos",
        f"prompted scenes obeyed: {rows[0].scenes:.0%} without masks, {rows[1].scenes:.0%} with masks",
        f"likeness of the dog: {rows[0].fidelity:.0%} without masks, {rows[1].fidelity:.0%} with masks",
    ]
    write_report(output, album, [(row.title, row.pictures()) for row in rows], lines)
    return lines


def score(album: Album, title: str, folder: Path) -> Row:
    """Measure the images of one model."""
    row = Row(title, folder, 0.0, 0.0)
    seen = measure([files.read_photo(path) for path in row.pictures()], album.identity)
    photos = measure([picture.image for picture in album.pictures], album.identity)
    main, second = np.mean([one.colours for one in photos], axis=0)
    wanted = [scene for scene in SCENES for _ in range(PICTURES)]
    return Row(
        title,
        folder,
        float(np.mean([one.scene == scene for one, scene in zip(seen, wanted, strict=True)])),
        float(np.mean([fidelity(one, album.identity, (main, second))["fidelity"] for one in seen])),
    )


def call(verb: str, *words: str, **flags: object) -> None:
    """Print and run a command of persam-dreambooth; exit if it fails."""
    given = [verb, *words, *(str(word) for key, value in flags.items() for word in (f"--{key}", value))]
    print("$ persam-dreambooth", shlex.join(given), flush=True)
    code = persam_dreambooth(given)
    if code:
        sys.exit(code)


def step(title: str) -> None:
    """Print a headline."""
    print(f"\n== {title}", flush=True)


def main() -> None:
    """Read the flags, run, print the report's path."""
    parser = argparse.ArgumentParser(description="DreamBooth without and with masks, in a small drawn world.")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for everything; must not exist yet")
    parser.add_argument("--max_train_steps", type=int, default=200, help="steps of each training (200)")
    flags = parser.parse_args()
    if flags.output.exists() and any(flags.output.iterdir()):
        sys.exit(f"{flags.output} is not empty; remove it or choose another --output")
    try:
        lines = run(flags.output, flags.max_train_steps)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"\nlook at it: {flags.output / 'report.html'}   (or {flags.output / 'report.png'})")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
