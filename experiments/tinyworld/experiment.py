"""Measure the effect of masks on DreamBooth: plain against masked, with and without a background prior.

    python experiments/tinyworld/experiment.py --output experiment

Six held-out subjects, five photos each on the same background, three seeds, eight arms. Every run uses
the real trainer. Interrupted, the command resumes after the last finished run. It writes `results.json`,
`table.md` and `grid.png`.
"""

import argparse
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from albums import albums, backgrounds
from arms import Recipe, arms, further
from dreambooth import draw_subject, overlaps, prepare, run
from measures import Measured, fidelity, interval, measure
from models import DIFFUSION
from persam_dreambooth.photos import files, rendering


def one_run(job: tuple[int, str, int, Recipe, Path]) -> None:
    """Do one run of the experiment, in its own process, and save what the judge sees."""
    number, letter, seed, recipe, output = job
    album = albums()[number]
    folder = output / "runs" / f"{album.name}-{letter}-{seed}"
    torch.set_num_threads(1)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        if letter == "base":
            images = draw_subject(DIFFUSION, album, seed, recipe, identifier="")
        else:
            images = run(
                album, (arms(recipe) | further(recipe))[letter], seed, recipe, folder, output / "albums" / album.name
            )
    files.write_picture(rendering.joined(images, across=True), folder.with_suffix(".png"))
    seen = [asdict(measured) for measured in measure(images, album.identity)]
    with files.replacing(folder.with_suffix(".json")) as beside:
        beside.write_text(json.dumps(seen))


def summary(output: Path, letters: list[str], seeds: int, recipe: Recipe) -> dict[str, dict[str, list[float]]]:
    """Return each arm's measures with one value per run, the mean over its images."""
    made = {}
    for letter in letters:
        rows: dict[str, list[float]] = {}
        for album in albums():
            photos = measure([picture.image for picture in album.pictures], album.identity)
            main, second = np.mean([photo.colours for photo in photos], axis=0)
            scenes = [scene for scene in album.other_scenes for _ in range(recipe.pictures)]
            for seed in range(seeds):
                path = output / "runs" / f"{album.name}-{letter}-{seed}.json"
                if not path.exists():
                    continue
                seen = [Measured(**stored) for stored in json.loads(path.read_text())]
                parts = [fidelity(picture, album.identity, (main, second)) for picture in seen]
                values = {
                    "scene": [float(picture.scene == wanted) for picture, wanted in zip(seen, scenes, strict=True)],
                    "leakage": [float(picture.scene == album.scene) for picture in seen],
                    "bleeding": [picture.bleeding for picture in seen],
                    **{name: [part[name] for part in parts] for name in ("fidelity", "kind", "pattern", "colours")},
                }
                for name, of_run in values.items():
                    rows.setdefault(name, []).append(float(np.mean(of_run)))
        made[letter] = rows
    return made


def table(results: dict[str, dict[str, list[float]]], recipe: Recipe) -> str:
    """Return a Markdown table with one row per arm: means in percent with 95 % intervals over the runs."""
    names = ("scene", "leakage", "bleeding", "fidelity", "kind", "pattern", "colours")
    heads = ("scene accuracy", "leakage", "bleeding", "fidelity", "kind", "pattern", "colours")
    titles = {letter: arm.title for letter, arm in (arms(recipe) | further(recipe)).items()}
    titles["base"] = "the base model, no subject"
    lines = [f"| arm | | {' | '.join(heads)} |", f"| --- | --- {'| ---: ' * len(heads)}|"]
    for letter, rows in results.items():
        if not rows:
            continue
        cells = []
        for name in names:
            mean, low, high = (100 * value for value in interval(rows[name]))
            cells.append(f"{mean:.1f} [{low:.1f}, {high:.1f}]")
        lines.append(f"| {letter} | {titles[letter]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def grid(output: Path, letters: list[str], recipe: Recipe, seed: int = 0) -> Image.Image:
    """Join the images of all subjects: per arm a row of a photo and one image per scene; subjects in two columns."""
    blocks = []
    for album in albums():
        tiles, captions = [], []
        for letter in letters:
            strip = Image.open(output / "runs" / f"{album.name}-{letter}-{seed}.png")
            tiles.append(album.pictures[0].image)
            captions.append(letter)
            for number, scene in enumerate(album.other_scenes):
                left = number * recipe.pictures * strip.height
                tiles.append(strip.crop((left, 0, left + strip.height, strip.height)))
                captions.append(scene)
        blocks.append(rendering.sheet(tiles, captions, columns=8, tile=96))
    half = -(-len(blocks) // 2)
    return rendering.joined([rendering.joined(blocks[:half]), rendering.joined(blocks[half:])], across=True)


def main() -> None:
    """Do the missing runs, then write results, table and grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("experiment"), help="folder for everything")
    parser.add_argument("--arms", nargs="+", default=["base", *arms(Recipe())], help="letters of the arms (base to f)")
    parser.add_argument("--subjects", type=int, default=6, help="how many subjects (6)")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (3)")
    parser.add_argument("--workers", type=int, default=2, help="runs at once (2)")
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"({value})")
    flags = parser.parse_args()
    recipe = Recipe(**{name: getattr(flags, name) for name in asdict(Recipe())})
    chosen = albums()[: flags.subjects]
    for album in tqdm(chosen, "preparing albums"):
        prepare(album, flags.output / "albums" / album.name, recipe)
    backgrounds(flags.output)
    jobs = [
        (number, letter, seed, recipe, flags.output)
        for seed in range(flags.seeds)
        for number, album in enumerate(chosen)
        for letter in flags.arms
        if not (flags.output / "runs" / f"{album.name}-{letter}-{seed}.json").exists()
    ]
    with get_context("spawn").Pool(flags.workers) as pool:
        for _ in tqdm(pool.imap_unordered(one_run, jobs), "runs", len(jobs)):
            pass
    results = summary(flags.output, flags.arms, flags.seeds, recipe)
    found = [iou for album in chosen for iou in overlaps(album, flags.output / "albums" / album.name)]
    text = table(results, recipe)
    print(text)
    print(f"masks found from one reference: mean IoU {np.mean(found):.3f}, lowest {min(found):.3f}, n = {len(found)}")
    (flags.output / "table.md").write_text(text)
    stored = {"recipe": asdict(recipe), "found_masks_iou": found, "arms": results}
    (flags.output / "results.json").write_text(json.dumps(stored, indent=1) + "\n")
    if flags.subjects == len(albums()):
        files.write_picture(grid(flags.output, flags.arms, recipe), flags.output / "grid.png")


if __name__ == "__main__":
    main()
