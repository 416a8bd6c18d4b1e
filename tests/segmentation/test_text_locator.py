"""Phrases: matches are the models' own, in the photo's coordinates, for photos of any shape."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import TextLocator, TextPrompt
from persam_dreambooth.segmentation.text_locator import MOST
from tests.scene import scene
from tests.segmentation.random_locators import LOCATORS, save

SIZES = [(60, 60), (40, 90), (90, 40)]
DETECTORS = ("grounding_dino", "mm_grounding_dino", "owlv2")
PHRASE = "A red disc."


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the folder of a random model, as `save_pretrained` of transformers writes it."""
    folders = {}

    def saved_once(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            save(name, folders[name])
        return folders[name]

    return saved_once


def prompt(**settings):
    return TextPrompt(PHRASE, threshold=settings.pop("threshold", 0.0), **settings)


def raw(name, pixels):
    """The model's own output on one photo, asked as its documentation does."""
    model, processor = LOCATORS[name]()
    model = getattr(model, "detector_model", model)
    text = [["a red disc"]] if name in DETECTORS else ["a red disc"]
    inputs = processor(images=Image.fromarray(pixels), text=text, return_tensors="pt")
    inputs.pop("original_sizes", None)
    with torch.no_grad():
        return model(**inputs), inputs, processor


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DETECTORS)
def test_boxes_are_those_of_transformers_own_classes_and_postprocessing(saved, name, size):
    pixels = scene(*size)[0]
    model = AutoModelForZeroShotObjectDetection.from_pretrained(saved(name)).eval()
    processor = AutoProcessor.from_pretrained(saved(name))
    inputs = processor(images=Image.fromarray(pixels), text=[["a red disc"]], return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    (theirs,) = processor.post_process_grounded_object_detection(output, threshold=0.3, target_sizes=[size])
    found = TextLocator.from_pretrained(saved(name), "cpu").locate(pixels, prompt(threshold=0.3))
    height, width = size
    edges = torch.tensor([width, height, width, height])
    expected = [
        (score.item(), box.clamp(min=torch.zeros(4), max=edges))
        for score, box in sorted(zip(theirs["scores"], theirs["boxes"], strict=True), key=lambda pair: -pair[0])
    ]
    expected = [(score, box.numpy()) for score, box in expected if (box[2:] > box[:2]).all()]
    assert len(found) == len(expected) > 0 and all(match.mask is None for match in found)
    for match, (score, box) in zip(found, expected, strict=True):
        assert match.score == pytest.approx(score, abs=1e-6)
        np.testing.assert_allclose(match.box, box, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["grounding_dino", "owlv2", "sam3", "sam3_with_tracker"])
def test_best_box_follows_from_the_models_relative_box_and_the_photos_sides(name, size, saved):
    """OWLv2 pads a photo to a square; Grounding DINO and SAM 3 see the photo alone."""
    pixels = scene(*size)[0]
    output, _, _ = raw(name, pixels)
    boxes = output.pred_boxes[0].double()
    if name == "owlv2":
        scores, (height, width) = output.logits[0].amax(-1).sigmoid(), (max(size),) * 2
    elif name == "grounding_dino":
        scores, (height, width) = output.logits[0].sigmoid().amax(-1), size
    else:
        scores, (height, width) = output.pred_logits[0].sigmoid() * output.presence_logits[0].sigmoid(), size
    if not name.startswith("sam3"):  # SAM 3's boxes are corners already
        centre, half = boxes[:, :2], boxes[:, 2:] / 2
        boxes = torch.cat([centre - half, centre + half], 1)
    cut = boxes * torch.tensor([width, height] * 2)
    cut = cut.clamp(min=torch.zeros(4), max=torch.tensor([size[1], size[0]] * 2))
    inside = (cut[:, 2:] > cut[:, :2]).all(1)
    best = int(scores.where(inside, torch.tensor(-1.0)).argmax())
    found = TextLocator.from_pretrained(saved(name), "cpu").locate(pixels, prompt())
    assert found[0].score == pytest.approx(scores[best].item(), abs=1e-6)
    np.testing.assert_allclose(found[0].box, cut[best].numpy(), atol=1e-3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["sam3", "sam3_with_tracker"])
def test_sam3s_masks_are_its_processors(saved, name, size):
    pixels = scene(*size)[0]
    output, _, processor = raw(name, pixels)
    (theirs,) = processor.post_process_instance_segmentation(output, threshold=0.0, target_sizes=[size])
    order = [index for index in theirs["scores"].argsort(descending=True) if theirs["masks"][index].any()]
    found = TextLocator.from_pretrained(saved(name), "cpu").locate(pixels, prompt())
    assert len(found) == len(order) > 0
    for match, index in zip(found, order, strict=True):
        assert match.mask.shape == size
        np.testing.assert_array_equal(match.mask, theirs["masks"][index].bool().numpy())


@pytest.mark.parametrize("size", SIZES)
def test_clipsegs_matches_are_the_regions_of_its_probabilities(saved, size):
    pixels = scene(*size)[0]
    output, _, _ = raw("clipseg", pixels)
    logits = torch.nn.functional.interpolate(output.logits[:, None], size, mode="bilinear")[0, 0]
    probability = logits.sigmoid().numpy()
    threshold = float(np.sort(probability, axis=None)[-MOST])  # so few pixels are above that no region is left out
    found = TextLocator.from_pretrained(saved("clipseg"), "cpu").locate(pixels, prompt(threshold=threshold))
    assert 1 < len(found) < MOST
    union = np.sum([match.mask for match in found], axis=0)
    np.testing.assert_array_equal(union, (probability > threshold).astype(int))  # disjoint, and all of it
    scores = [match.score for match in found]
    assert scores == sorted(scores, reverse=True)
    for match in found:
        assert match.score == pytest.approx(probability[match.mask].max(), abs=1e-6)
        left, top, right, bottom = match.box.astype(int)
        assert match.mask[top:bottom, left:right].sum() == match.mask.sum()
        assert all(match.mask[top:bottom, left:right].any(axis).all() for axis in (0, 1))


@pytest.mark.parametrize("name", LOCATORS)
def test_words_and_threshold_matter(saved, name):
    locator, pixels = TextLocator.from_pretrained(saved(name), "cpu"), scene(60, 80)[0]
    found = locator.locate(pixels, prompt())
    other = locator.locate(pixels, TextPrompt("blue dog", threshold=0.0))
    assert [match.score for match in found] != [match.score for match in other]
    middle = (found[0].score + found[-1].score) / 2 if len(found) > 1 else found[0].score + 1e-6
    fewer = locator.locate(pixels, prompt(threshold=middle))
    assert all(match.score > middle for match in fewer) and (len(fewer) < len(found) or len(found) == 1)
    assert locator.threshold(TextPrompt("dog")) in (0.1, 0.25, 0.3, 0.5)
    assert locator.draws_outlines == name.startswith("sam3")


def test_rows_are_not_taken_for_colours(saved):
    pixels = scene(3, 40)[0]
    locator = TextLocator.from_pretrained(saved("owlv2"), "cpu")
    assert all((match.box <= [40, 3, 40, 3]).all() for match in locator.locate(pixels, prompt()))


@pytest.mark.parametrize(("name", "words"), [("owlv2", 20), ("clipseg", 20), ("sam3", 80), ("grounding_dino", 20)])
def test_a_phrase_that_is_too_long_is_refused(saved, name, words):
    locator = TextLocator.from_pretrained(saved(name), "cpu")
    with pytest.raises(UserError, match=r"tokens, the model reads \d+; use fewer words"):
        locator.locate(scene(40, 40)[0], TextPrompt("a " * words))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"phrase": " . "}, "has no word"),
        ({"phrase": "dog", "threshold": 1.5}, "threshold 1.5 of a phrase must lie between 0 and 1"),
        ({"phrase": "dog", "overlap": -0.1}, "overlap -0.1"),
    ],
)
def test_impossible_prompts_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        TextPrompt(**settings)


def test_full_stops_would_separate_phrases():
    assert TextPrompt(" a St. Bernard. ").phrase == "a St Bernard"


def test_other_models_and_missing_files_are_refused(saved, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(UserError, match=r'not a model that locates phrases.*"clip".*owlv2'):
        TextLocator.from_pretrained(tmp_path)
    LOCATORS["owlv2"]()[0].save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match=r"lacks its tokenizer or preprocessor_config.json"):
        TextLocator.from_pretrained(tmp_path / "bare")
