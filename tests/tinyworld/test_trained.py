"""Behaviour of the committed trained models, which the other tests' random models cannot show."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import CLIPModel, CLIPTokenizer, SamModel

from albums import albums
from arms import Recipe, arms
from dreambooth import draw_subject, overlaps, prepare, run
from loading import check, load
from measures import fidelity, measure
from models import CLIP, DETECTOR, DIFFUSION, DINO, FOLDER, JUDGE, SAM
from recipes import KIND_NAMES, Placement, random_recipe
from recipes import Recipe as PictureRecipe
from scenes import PHRASES
from score import generate, score_generation, write_sheet
from train_sam import sam_pixels
from world import draw

FOLDERS = (SAM, CLIP, DIFFUSION, JUDGE, DETECTOR, DINO)
SHORT = Recipe(steps=60, pictures=2, inference_steps=8)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(albums()[0], tmp_path_factory.mktemp("album") / "dog", SHORT, class_images=0)


def test_weights_are_small_float16_safetensors_with_cards():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 60e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    for path in FOLDER.rglob("*.safetensors"):
        with safe_open(path, "pt") as stored:
            assert {stored.get_slice(key).get_dtype() for key in stored.keys()} <= {"F16", "I64"}, path  # noqa: SIM118
    for folder in FOLDERS:
        assert check(folder) and (folder / "README.md").read_text().startswith("---\nlicense:")


def test_masks_of_held_out_subject_overlap_truth(prepared):
    found = overlaps(albums()[0], prepared)
    assert len(found) == 4 and np.mean(found) >= 0.8


def test_masks_beat_no_masks_in_short_run(prepared, tmp_path):
    album = albums()[0]
    photos = measure([picture.image for picture in album.pictures], album.identity)
    true = tuple(np.mean([photo.colours for photo in photos], axis=0))

    def score(seen):
        wanted = [scene for scene in album.other_scenes for _ in range(SHORT.pictures)]
        scenes = [picture.scene == scene for picture, scene in zip(seen, wanted, strict=True)]
        return np.mean(scenes), np.mean([fidelity(picture, album.identity, true)["colours"] for picture in seen])

    runs = {letter: run(album, arms(SHORT)[letter], 0, SHORT, tmp_path / letter, prepared) for letter in ("a", "c")}
    (plain, _), (masked, learned) = (score(measure(images, album.identity)) for images in runs.values())
    _, stranger = score(measure(draw_subject(DIFFUSION, album, 0, SHORT, identifier=""), album.identity))
    assert masked > plain + 0.1
    assert learned > stranger + 0.1


def test_box_gives_subject_and_point_gives_nested_masks():
    model = load(SamModel, SAM).float()
    overlap, nested = [], []
    for seed in range(12):
        picture = draw(random_recipe(np.random.default_rng(seed), held_out=True, crowd=(0, 1, 0, 0)))
        mask = torch.from_numpy(picture.mask())
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        box = torch.tensor([[[columns[0], rows[0], columns[-1], rows[-1]]]]).float()
        with torch.no_grad():
            features = model.get_image_embeddings(sam_pixels(np.asarray(picture.image)[None]))
            found = model(image_embeddings=features, input_boxes=box, multimask_output=False).pred_masks[0, 0, 0] > 0
            y, x = mask.nonzero()[len(mask.nonzero()) // 2].tolist()
            point = {"input_points": torch.tensor([[[[x, y]]]]).float(), "input_labels": torch.ones(1, 1, 1).long()}
            three = model(image_embeddings=features, **point).pred_masks[0, 0] > 0
        overlap.append(float((found & mask).sum() / (found | mask).sum()))
        nested.append(bool(three[0].sum() <= three[1].sum() <= three[2].sum()))
    assert np.mean(overlap) > 0.8 and np.mean(nested) > 0.8


def test_clip_recognizes_scenes():
    model, words = load(CLIPModel, CLIP).float(), load(CLIPTokenizer, CLIP)
    tokens = words([f"a dog {phrase}" for phrase in PHRASES.values()], padding="max_length", return_tensors="pt")
    right = []
    for number, scene in enumerate(PHRASES):
        who = random_recipe(np.random.default_rng(number), held_out=True, crowd=(0, 1, 0, 0)).subjects[0][0]
        picture = draw(PictureRecipe(scene, ((who, Placement(0.5, 0.55, 0.3, 0.0, False, 0.2)),), seed=number))
        pixels = torch.from_numpy(np.asarray(picture.image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            logits = model(input_ids=tokens.input_ids, pixel_values=pixels).logits_per_image
        right.append(int(logits.argmax()) == number)
    assert np.mean(right) > 0.8


def test_every_kind_is_drawn_in_prompted_scene(tmp_path):
    generated = generate(pictures=1, guidance_scale=4.0, inference_steps=8)
    scores = score_generation(generated)
    for what, aim in (("scene", 0.85), ("kind", 0.8)):
        values = scores[f"generated, {what}, all"]
        assert len(values) == len(KIND_NAMES) * len(PHRASES)
        assert np.mean(values) >= aim
    write_sheet(generated, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width >= len(PHRASES) * 96 and sheet.height >= len(KIND_NAMES) * 96


def test_card_scores_match_last_evaluation():
    scores = json.loads((FOLDER / "scores.json").read_text())
    cards = "".join((folder / "README.md").read_text() for folder in FOLDERS)
    assert all(f"| {name} | {value} |" in cards for name, value in scores.items())
