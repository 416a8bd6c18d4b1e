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
from dreambooth import overlaps
from identity import Recognizer
from loading import check
from measures import measure
from models import DIFFUSION, SAM
from persam_dreambooth.cli import main as persam_dreambooth
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from report import Row, write_report
from scenes import PHRASES
from wholeness import whole

SCENES = ("jungle", "snow", "beach", "night")
PICTURES = 2
"""Images per scene."""


@dataclass(frozen=True)
class Training:
    """One way of training; `curve` is its row on the frontier of other subjects."""

    title: str
    curve: str
    name: str
    steps: int
    flags: dict[str, object]
    masked: bool


PLAIN = Training("without masks", "a 0.002", "without-masks", 100, {"learning_rate": 0.002}, masked=False)
MASKED = Training(
    "with masks", "c 0.002", "with-masks", 100, {"learning_rate": 0.002, "background_prior_weight": 1.0}, masked=True
)
"""With masks, identity times scene accuracy is highest here on docs/tinyworld.md's frontier. That of plain training is
a little higher after 400 steps, which suit this dog less: it is then recognized in none of the images."""


def run(output: Path, steps: int | None = None) -> list[str]:
    """Segment, train twice, generate twice, write the report; return the lines that summarize it."""
    sam, diffusion = check(SAM), check(DIFFUSION)
    album = albums()[0]
    photos, masks = save_album(album, output)
    reference, mask = photos / "00.png", masks / "00.png"
    step("1/3  find the dog in every photo, from one mask")
    call("segment", images=photos, reference=reference, reference_mask=mask, sam=sam, output=output / "found")
    overlap = np.mean(overlaps(album, output))
    step("2/3  train on all pixels, then on the dog alone")
    for training in (PLAIN, MASKED):
        masked = {"instance_mask_dir": output / "found", "class_prompt": f"a {album.identity.kind}"}
        call(
            *("train", "--use_lora", *(() if training.masked else ("--no_masked_loss",))),
            pretrained_model_name_or_path=diffusion,
            instance_data_dir=photos,
            instance_prompt=f"a sks {album.identity.kind}",
            **{"rank": 4, "resolution": 64, "train_batch_size": 4, "lr_warmup_steps": 0, "seed": 0},
            **{"max_train_steps": steps or training.steps, "report_to": "none"},
            **(masked if training.masked else {}),
            **training.flags,
            output_dir=output / training.name,
        )
    step("3/3  let both draw the dog in four other places")
    rows = []
    for training in (PLAIN, MASKED):
        drawn = output / f"{training.name}-pictures"
        settings = {"num_images": PICTURES, "num_inference_steps": 20, "guidance_scale": 4.0, "height": 64}
        prompts = album.prompts(list(SCENES))
        call("generate", "--prompt", *prompts, model=output / training.name, output=drawn, width=64, **settings)
        rows.append(score(album, training, drawn))
    lines = [
        f"the dog found from one mask: IoU {overlap:.2f} with the truth, mean of {len(album.pictures) - 1} photos",
        *(
            f"{row.title}: this very dog among 20 look-alikes in {row.identity:.0%} of the images, the prompted scene "
            f"in {row.scene:.0%}, a whole dog in {row.whole:.0%}"
            for row in rows
        ),
    ]
    write_report(output, album, rows, lines)
    return lines


def score(album: Album, training: Training, folder: Path) -> Row:
    """Measure the images of one model, which `generate` named after their prompts."""
    images = [path for scene in SCENES for path in sorted(folder.glob(f"*{PHRASES[scene].split()[-1]}-*.png"))]
    shown = [files.read_photo(path) for path in images]
    wanted = [scene for scene in SCENES for _ in range(PICTURES)]
    seen = measure(shown, album.identity)
    return Row(
        *(training.title, training.curve, images),
        float(np.mean([found.scene == scene for found, scene in zip(seen, wanted, strict=True)])),
        float(np.mean(Recognizer(album.identity).recognizes(shown))),
        float(np.mean(whole(shown, album.identity.kind))),
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
    parser.add_argument("--max_train_steps", type=int, help="steps of each training, instead of its own")
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
