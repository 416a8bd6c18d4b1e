"""Score tinyworld's models on held-out pictures, and write the scores into the model cards.

    python experiments/tinyworld/score.py

Prints a table with 95 % intervals (bootstrap over pictures).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm
from transformers import CLIPModel, CLIPTokenizer, SamModel

from cards import SCORES, write_cards
from companions import shows
from corpus import ALONE, CROWDED, Corpus, class_numbers, load_corpus
from damages import DAMAGES, ONE_SIDED
from identity import Recognizer, portrait
from loading import check, load
from measures import measure, percent, the_judge
from models import CLIP, DIFFUSION, FOLDER, SAM
from persam_dreambooth.photos import files, rendering
from recipes import HELD_OUT_PAIRS, KIND_NAMES, SCENES, random_identity
from scenes import PHRASES
from subjects import PATTERNS
from train_sam import label_tables, sam_pixels
from training_flags import WORK
from wholeness import are_whole, softened, whole

Scores = dict[str, list[float]]
Generated = dict[str, list[list[Image.Image]]]
"""Generated images by kind: rows of one image per scene."""


@torch.no_grad()
def score_sam(corpus: Corpus) -> Scores:
    """IoU from a box, from one point at the innermost pixel, and of the best of its three masks."""
    model = load(SamModel, SAM).float()
    parts, owners = label_tables(corpus)
    scores: Scores = {}
    for number in tqdm(range(len(corpus)), "SAM"):
        labels = torch.from_numpy(corpus.labels[number]).long()
        features = model.get_image_embeddings(sam_pixels(corpus.images[number : number + 1]))
        for level, table in (("whole", owners), ("part", parts)):
            groups = table[number][labels]
            for group in groups.unique()[1:].tolist():
                target = groups == group
                if target.sum() < 12:
                    continue
                asked = _prompts(target)
                positive = torch.ones(1, 1, 1, dtype=torch.long)
                point = model(image_embeddings=features, input_points=asked[0], input_labels=positive)
                boxed = model(image_embeddings=features, input_boxes=asked[1], multimask_output=False)
                three = [_iou(mask > 0, target) for mask in point.pred_masks[0, 0]]
                guess = three[int(point.iou_scores[0, 0].argmax())]
                scores.setdefault(f"SAM, box, {level}", []).append(_iou(boxed.pred_masks[0, 0, 0] > 0, target))
                scores.setdefault(f"SAM, one point, its own best mask, {level}", []).append(guess)
                scores.setdefault(f"SAM, one point, best of three, {level}", []).append(max(three))
    return scores


def _prompts(target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a target's innermost pixel and its tight box, in pixels."""
    inner = target.float()[None, None]
    while (smaller := 1 - torch.nn.functional.max_pool2d(1 - inner, 3, 1, 1)).any():
        inner = smaller
    y, x = inner[0, 0].nonzero()[0].tolist()
    rows, columns = target.any(1).nonzero()[:, 0], target.any(0).nonzero()[:, 0]
    edges = [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])]
    return torch.tensor([[[[float(x), float(y)]]]]), torch.tensor([[edges]], dtype=torch.float32)


def _iou(found: torch.Tensor, target: torch.Tensor) -> float:
    return float((found & target).sum() / (found | target).sum())


@torch.no_grad()
def score_clip(corpus: Corpus) -> Scores:
    """Zero-shot accuracy of scene and kind."""
    model, words = load(CLIPModel, CLIP).float(), load(CLIPTokenizer, CLIP)
    texts = [f"a {kind} {phrase}" for kind in KIND_NAMES for phrase in PHRASES.values()]
    tokens = words(texts, padding="max_length", return_tensors="pt").input_ids
    scenes, kinds = class_numbers(corpus.facts)
    pixels = corpus.pixels(torch.arange(len(corpus)))
    logits = torch.cat([model(input_ids=tokens, pixel_values=some).logits_per_image for some in pixels.split(100)])
    likely = logits.softmax(-1).view(-1, len(KIND_NAMES), len(SCENES))
    alone = torch.tensor([len(fact["kinds"]) == 1 for fact in corpus.facts])
    right_scene, right_kind = likely.sum(1).argmax(-1) == scenes, likely.sum(2).argmax(-1) == kinds
    return {
        "CLIP, zero-shot scene": right_scene.float().tolist(),
        "CLIP, zero-shot kind": right_kind[alone].float().tolist(),
    }


@torch.no_grad()
def score_vae(corpus: Corpus) -> Scores:
    """Peak signal-to-noise ratio of each reconstructed picture, in dB."""
    model = load(AutoencoderKL, DIFFUSION / "vae").float()
    pixels = corpus.pixels(torch.arange(min(len(corpus), 300)))
    ratios = []
    for some in pixels.split(50):
        decoded = model.decode(model.encode(some).latent_dist.mean).sample.clamp(-1, 1)
        error = ((decoded - some) / 2).square().mean(dim=(1, 2, 3))
        ratios += (-10 * error.log10()).tolist()
    return {"VAE, PSNR": ratios}


@torch.no_grad()
def score_judge(corpus: Corpus) -> Scores:
    """Accuracy of the judge on drawn pictures."""
    verdict = the_judge()(corpus.pixels(torch.arange(len(corpus))))
    scenes, kinds = class_numbers(corpus.facts)
    alone = torch.tensor([len(fact["kinds"]) == 1 for fact in corpus.facts])
    patterns = [PATTERNS.index(fact["identities"][0]["pattern"]) if fact["kinds"] else -1 for fact in corpus.facts]
    masks = torch.from_numpy(corpus.labels > 0)
    overlaps = [_iou(found, mask) for found, mask in zip(verdict.mask[:, 0] > 0, masks, strict=True) if mask.any()]
    return {
        "judge, scene": (verdict.scene.argmax(-1) == scenes).float().tolist(),
        "judge, kind": (verdict.kind.argmax(-1) == kinds)[alone].float().tolist(),
        "judge, pattern": (verdict.pattern.argmax(-1) == torch.tensor(patterns))[alone].float().tolist(),
        "judge, subject's mask, IoU": overlaps,
    }


def score_detector(corpus: Corpus) -> Scores:
    """Accuracy of the detector, for kinds that are in a drawn picture and for kinds that are not."""
    seen: Scores = {"detector, kinds that are there": [], "detector, kinds that are not": []}
    for number, fact in enumerate(corpus.facts):
        image = Image.fromarray(corpus.images[number])
        for kind in KIND_NAMES:
            name = "detector, kinds that are there" if kind in fact["kinds"] else "detector, kinds that are not"
            seen[name].append(float(shows([image], kind)[0] == (kind in fact["kinds"])))
    return seen


def score_identity(individuals: int = 64, pictures: int = 4) -> Scores:
    """Measure how often the DINOv3 recognizes a held-out individual among 20 look-alikes: drawn, and after the VAE."""
    scores: Scores = {"DINO, individual among 20 look-alikes": [], "DINO, the same after the VAE": []}
    for number in tqdm(range(individuals), "DINO"):
        rng = np.random.default_rng([77, number])
        identity = random_identity(rng, KIND_NAMES[number % len(KIND_NAMES)], held_out=True)
        recognizer = Recognizer(identity, seed=number)
        drawn = [portrait(identity, rng).image for _ in range(pictures)]
        for name, images in zip(scores, (drawn, softened(drawn)), strict=True):
            scores[name] += [float(right) for right in recognizer.recognizes(images)]
    return scores


def score_wholeness(count: int = 30) -> Scores:
    """Measure how often drawn pictures count as whole, after the VAE: of whole subjects, and of damaged ones."""
    rng = np.random.default_rng(13)
    judged = {"whole subjects": are_whole(KIND_NAMES, count, rng)}
    for name, damage in DAMAGES.items():
        judged[name] = are_whole(ONE_SIDED if name == "mirrored" else KIND_NAMES, count, rng, damage)
    return {f"wholeness, {name}": [float(said) for said in values] for name, values in judged.items()}


def generate(pictures: int, guidance_scale: float, inference_steps: int = 20) -> Generated:
    """Generate images of every kind: for each, `pictures` rows of one image per scene."""
    check(DIFFUSION)
    pipeline = load(StableDiffusionPipeline, DIFFUSION, dtype=torch.float32)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": inference_steps, "guidance_scale": guidance_scale}
    generated: Generated = {kind: [] for kind in KIND_NAMES}
    for kind in tqdm(KIND_NAMES, "generating"):
        prompts = [f"a {kind} {phrase}" for phrase in PHRASES.values()]
        for seed in range(pictures):
            noise = [torch.Generator().manual_seed(seed * 100 + number) for number in range(len(prompts))]
            generated[kind].append(pipeline(prompts, generator=noise, **settings).images)
    return generated


def score_generation(generated: Generated) -> Scores:
    """Measure how often the judge sees the prompted scene and kind, in images of every kind in every scene."""
    scores: Scores = {}
    for kind, rows in generated.items():
        for images in rows:
            for scene, seen in zip(SCENES, measure(images, random_identity(np.random.default_rng(0))), strict=True):
                side = "held-out pairs" if (kind, scene) in HELD_OUT_PAIRS else "trained pairs"
                scores.setdefault(f"generated, scene, {side}", []).append(float(seen.scene == scene))
                scores.setdefault(f"generated, kind, {side}", []).append(float(seen.kind == kind))
    for what in ("scene", "kind"):
        sides = [values for name, values in scores.items() if name.startswith(f"generated, {what}, ")]
        scores[f"generated, {what}, all"] = [value for values in sides for value in values]
    return scores


def score_generated_outlines(generated: Generated) -> Scores:
    """Measure how often generated images' subjects have the outline of a whole subject of their kind."""
    judged = [said for kind, rows in generated.items() for images in rows for said in whole(images, kind)]
    return {"generated, whole": [float(said) for said in judged]}


def write_sheet(generated: Generated, path: Path) -> None:
    """Write the first row of every kind as a sheet, with kind and scene under each image."""
    captions = [f"{kind}, {scene}" for kind in KIND_NAMES for scene in SCENES]
    drawn = [image for rows in generated.values() for image in rows[0]]
    files.write_picture(rendering.sheet(drawn, captions, columns=len(SCENES), tile=96), path)


def main() -> None:
    """Compute all scores, print them and write the cards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK, help="folder of drawn pictures (work/)")
    parser.add_argument("--pictures", type=int, default=8, help="generated pictures for each kind in each scene (8)")
    parser.add_argument(
        "--guidance_scale", type=float, default=4.0, help="guidance scale of the generated pictures (4)"
    )
    flags = parser.parse_args()
    alone = load_corpus(flags.work, "held-out", 1000, 3, held_out=True, crowd=ALONE)
    crowds = load_corpus(flags.work, "held-out-crowds", 400, 4, held_out=True, crowd=CROWDED)
    scores = score_judge(alone) | score_clip(alone) | score_vae(alone) | score_sam(crowds)
    scores |= score_detector(crowds) | score_identity() | score_wholeness()
    generated = generate(flags.pictures, flags.guidance_scale)
    scores |= score_generation(generated) | score_generated_outlines(generated)
    write_sheet(generated, FOLDER / "generated.png")
    lines = {}
    for name, values in scores.items():
        lines[name] = f"{np.mean(values):.2f} dB" if "PSNR" in name else percent(values)
        print(f"{name:45} {lines[name]:28} n = {len(values)}")
    (FOLDER / SCORES).write_text(json.dumps(lines, indent=2) + "\n")
    write_cards()


if __name__ == "__main__":
    main()
