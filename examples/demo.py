"""The whole path on two cores and without a network: photos and one mask in, pictures out.

    python examples/demo.py --output demo

Draws four photos of a toy car, finds the car in all of them from one mask, trains a LoRA on the
car alone and generates. The models are small and RANDOM: every command and file is real, the masks
and pictures mean nothing. With real models the same three commands do the same.
"""

import argparse
import sys
from pathlib import Path

from persam_dreambooth.cli import main as persam_dreambooth
from persam_dreambooth.photos import drawing, files
from random_models import save_models
from toy_photos import save_photos

PROMPTS = ["a sks car in the jungle", "a sks car in the snow"]


def run(output: Path, steps: int, side: int) -> Path:
    """Segment, train, generate, draw one picture of it all; returns the picture's path."""
    photos, models = output / "photos", output / "models"
    mask = save_photos(photos)
    sam, diffusion = save_models(models)
    reference = photos / "00.jpg"
    step("1/3  find the car in every photo, from one mask")
    call("segment", images=photos, reference=reference, reference_mask=mask, sam=sam, output=output / "segmented")
    step("2/3  train a LoRA on the car, not on its background")
    call(
        "train",
        *("--use_lora",),
        pretrained_model_name_or_path=diffusion,
        instance_data_dir=photos,
        instance_mask_dir=output / "segmented",
        instance_prompt="a sks car",
        output_dir=output / "lora",
        mask_downsample="max",
        resolution=side,
        max_train_steps=steps,
        train_batch_size=2,
        learning_rate=1e-3,
        lr_warmup_steps=0,
        seed=0,
        report_to="none",
    )
    step("3/3  generate")
    settings = {"num_images": 2, "num_inference_steps": 8, "height": side, "width": side}
    call("generate", "--prompt", *PROMPTS, model=output / "lora", output=output / "generated", **settings)
    return picture(output)


def picture(output: Path) -> Path:
    """Reference and its mask, found masks, generated pictures: one sheet, `demo.png`."""
    photo = files.read_photo(output / "photos" / "00.jpg")
    tiles = [(photo, "reference image")]
    for path in sorted((output / "segmented" / "overlays").iterdir()):
        tiles.append((files.read_photo(path), "reference mask" if path.stem == "00" else f"found in {path.stem}"))
    for path in sorted((output / "generated").glob("a-*.png"))[:5]:
        tiles.append((files.read_photo(path), path.stem.rsplit("-", 1)[0].replace("-", " ")))
    sheet = drawing.sheet([tile for tile, _ in tiles], [caption for _, caption in tiles], columns=5, tile=160)
    files.write_picture(sheet, output / "demo.png")
    return output / "demo.png"


def call(verb: str, *words: str, **flags: object) -> None:
    """Run a verb of the command line, showing it first; stop here if it fails."""
    given = [verb, *words, *(str(word) for key, value in flags.items() for word in (f"--{key}", value))]
    print("$ persam-dreambooth", " ".join(f'"{word}"' if " " in word else word for word in given), flush=True)
    code = persam_dreambooth(given)
    if code:
        sys.exit(code)


def step(title: str) -> None:
    """A headline in the terminal."""
    print(f"\n== {title}", flush=True)


def main() -> None:
    """Read the flags, run, say where the picture lies."""
    parser = argparse.ArgumentParser(description="The whole path at small size, with random models.")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for everything; must not exist yet")
    parser.add_argument("--max_train_steps", type=int, default=40, help="training steps")
    parser.add_argument("--resolution", type=int, default=64, help="pixels of training and pictures")
    flags = parser.parse_args()
    if flags.output.exists() and any(flags.output.iterdir()):
        sys.exit(f"{flags.output} is not empty; remove it or choose another --output")
    print("NOTE: this demo's models are small and random. What is shown is the path, not the quality.")
    drawn = run(flags.output, flags.max_train_steps, flags.resolution)
    print(f"\nlook at it: {drawn}   (random models: the masks and pictures mean nothing)")


if __name__ == "__main__":
    main()
