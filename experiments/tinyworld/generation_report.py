"""The evaluation report on tinyworld: each subject is trained without masks and with them, and both are measured.

    python experiments/tinyworld/generation_report.py --output generation-report

Trains arms a, c and c+p of `experiment.py` as LoRAs on six held-out subjects, runs `persam-dreambooth evaluate
generation` on the three, with the base model as a baseline, and puts the six reports' numbers into one table.
Interrupted, the command resumes. About 30 minutes on one core.
"""

import argparse
import json
from pathlib import Path

import torch
from tqdm import tqdm

from albums import Album, albums
from arms import Recipe, arms
from dreambooth import call, prepare, train
from loading import check
from models import CLIP, DIFFUSION, SAM
from persam_dreambooth.evaluation.generation.table import MEASURES, Estimate, estimate, interval
from persam_dreambooth.photos import files
from scenes import PHRASES

ARMS = {"unmasked": "a", "masked": "c", "masked+prior": "c+p"}
"""The arms' names in the reports; see `experiment.arms`."""
DIFFERENCES = (("masked", "unmasked"), ("masked+prior", "masked"))


def report(album: Album, output: Path, recipe: Recipe, num_images: int) -> Path:
    """Train the missing models and evaluate; return the report's folder."""
    prepared = prepare(album, output / "albums" / album.name, recipe, features=True)
    models = {}
    for title, letter in ARMS.items():
        folder = output / "models" / f"{album.name}-{letter}"
        models[title] = folder / "model"
        if not (models[title] / "pytorch_lora_weights.safetensors").exists():
            train(album, arms(recipe)[letter], 0, recipe, folder, prepared)
    prompts = output / "prompts" / f"{album.name}.txt"
    prompts.parent.mkdir(parents=True, exist_ok=True)
    words = [f"a {{unique_token}} {{class_token}} [{PHRASES[scene]}]" for scene in album.other_scenes]
    prompts.write_text("\n".join(words) + "\n")
    folder = output / "reports" / album.name
    call(
        *("evaluate", "generation", "--model", *(f"{title}={path}" for title, path in models.items())),
        *(f"base={check(DIFFUSION)}", "--instance_data_dir", str(prepared / "photos")),
        *("--instance_mask_dir", str(prepared / "found"), "--prompts", str(prompts), "--unique_token", "sks"),
        *("--class_token", album.identity.kind, "--training_scenes", PHRASES[album.scene]),
        *("--scene_template", "an empty scene {}", "--num_images", str(num_images), "--height", "64", "--width", "64"),
        *("--num_inference_steps", str(recipe.inference_steps), "--guidance_scale", str(recipe.guidance_scale)),
        *("--sam", str(check(SAM)), "--clip_model", str(check(CLIP)), "--dino_model", "none"),
        *("--output", str(folder)),
    )
    return folder


def table(reports: list[Path]) -> str:
    """Return a Markdown table: a row per measure, means with 95 % intervals (bootstrap over the subjects)."""
    read = [json.loads((folder / "metrics.json").read_text()) for folder in reports]
    titles = [*ARMS, "base"]
    heads = [*titles, *[f"{title} - {base}" for title, base in DIFFERENCES], "the photos"]
    lines = [f"| | {' | '.join(heads)} |", f"| --- {'| ---: ' * len(heads)}|"]
    for name, measure in MEASURES.items():
        if name not in read[0]["models"]["masked"]:
            continue
        means = {title: [metrics["models"][title][name]["mean"] for metrics in read] for title in titles}
        apart = [[a - b for a, b in zip(means[title], means[base], strict=True)] for title, base in DIFFERENCES]
        photos = [[metrics["photos"][name] for metrics in read]] if name in read[0]["photos"] else []
        cells = [interval(measure, _over_subjects(column)) for column in (*means.values(), *apart, *photos)]
        lines.append(f"| {measure.group}: {measure.title} | {' | '.join([*cells, ''][: len(heads)])} |")
    return "\n".join(lines) + "\n"


def _over_subjects(values: list[float]) -> Estimate:
    made = estimate([[value] for value in values])
    assert made is not None, "there is a subject"
    return made


def main() -> None:
    """Write the missing reports, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("generation-report"), help="folder for everything")
    parser.add_argument("--subjects", type=int, default=6, help="how many subjects (6)")
    parser.add_argument("--num_images", type=int, default=4, help="pictures of each prompt (4)")
    parser.add_argument("--max_train_steps", type=int, default=100, help="steps of each training (100)")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(flags.max_train_steps, learning_rate=0.002, lora_rank=4)  # as the demo
    chosen = tqdm(albums()[: flags.subjects], "subjects")
    reports = [report(album, flags.output, recipe, flags.num_images) for album in chosen]
    text = table(reports)
    with files.replacing(flags.output / "table.md") as beside:
        beside.write_text(text)
    print(text)
    print(f"n = {len(reports)} subjects; each with its report: {reports[0] / 'report.html'}")


if __name__ == "__main__":
    main()
