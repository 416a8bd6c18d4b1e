"""Class nouns: scores equal those of the model's class, masks matter, and tinyworld's CLIP names drawn subjects."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    pipeline,
)

from models import CLIP
from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.appearance import cut_out
from persam_dreambooth.segmentation.class_nouns import VOCABULARY, ClassSuggester, in_surroundings, read_vocabulary
from persam_dreambooth.segmentation.pretrained import load_processor
from persam_dreambooth.text_files import with_article
from random_models import draw_weights
from recipes import KIND_NAMES, SCENES, Recipe, random_identity, random_placement
from tests.scene import scene
from world import draw

NOUNS = ["dog", "cat", "umbrella", "clock"]


class Processor:
    """SigLIP's processor as the suggester uses it; its own tokenizer needs a sentencepiece file."""

    image_processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    tokenizer = CLIPTokenizer.from_pretrained(CLIP)


def siglip():
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 700, "max_position_embeddings": 16, "projection_size": 32}
    return draw_weights(
        SiglipModel(SiglipConfig(text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8})), 1
    )


def test_clip_scores_match_zero_shot_pipeline(tmp_path):
    """Probabilities of transformers' pipeline are the softmax of the scaled scores."""
    nouns = tmp_path / "nouns.txt"
    nouns.write_text("# kinds\ndog\ncat\n\nclock\ndog\n", encoding="utf-8")
    suggester = ClassSuggester.from_pretrained(CLIP, nouns, "cpu")
    suggester = ClassSuggester(suggester._encoder.model, load_processor(str(CLIP)), suggester.nouns, "cpu", (cut_out,))
    assert suggester.nouns == ["dog", "cat", "clock"]
    pixels, disc = scene(60, 80)
    found = suggester.suggest([(pixels, disc)], 5)
    classifier = pipeline("zero-shot-image-classification", model=str(CLIP), device="cpu", dtype=torch.float32)
    sentences = {f"a photo of a {noun}": noun for noun in suggester.nouns}
    theirs = classifier(cut_out(pixels, disc), candidate_labels=list(sentences), hypothesis_template="{}")
    assert [noun for noun, _ in found] == [sentences[answer["label"]] for answer in theirs]
    scale = CLIPModel.from_pretrained(CLIP).float().logit_scale.exp().item()
    ours = torch.softmax(scale * torch.tensor([score for _, score in found]), 0)
    torch.testing.assert_close(ours, torch.tensor([answer["score"] for answer in theirs]), atol=2e-3, rtol=0)


def test_siglip_prompts_are_padded_to_full_length():
    """SigLIP gets no attention mask, so padding affects its scores."""
    model, pixels = siglip(), scene(40, 40)[0]
    suggester = ClassSuggester(model, Processor, NOUNS, "cpu", (lambda pixels, _: Image.fromarray(pixels),))
    found = dict(suggester.suggest([(pixels, np.ones((40, 40), bool))], 4))
    sentences = [f"a photo of {with_article(noun)}" for noun in NOUNS]
    tokens = Processor.tokenizer(sentences, padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        output = model(**tokens, **Processor.image_processor(pixels, return_tensors="pt"))
    own = (output.image_embeds @ output.text_embeds.T)[0]
    torch.testing.assert_close(torch.tensor([found[noun] for noun in NOUNS]), own, atol=1e-5, rtol=0)
    assert found != dict(suggester.suggest([(255 - pixels, np.ones((40, 40), bool))], 4))


def test_scores_are_averaged_over_photos_and_views():
    suggester = ClassSuggester.from_pretrained(CLIP, None, "cpu")
    shown = [scene(60, 80, seed) for seed in (0, 1)]
    both, *single = (dict(suggester.suggest(photos, 2000)) for photos in (shown, shown[:1], shown[1:]))
    assert len(both) == len(read_vocabulary())
    for noun in ("dog", "umbrella"):
        assert both[noun] == pytest.approx(np.mean([scores[noun] for scores in single]), abs=1e-6)


def test_surroundings_are_half_of_subject_size_and_clipped_to_photo():
    pixels, mask = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3), np.zeros((60, 80), bool)
    mask[10:31, 20:41] = True
    np.testing.assert_array_equal(np.asarray(in_surroundings(pixels, mask)), pixels[4:37, 14:47])
    mask[:, :] = True
    np.testing.assert_array_equal(np.asarray(in_surroundings(pixels, mask)), pixels)


def test_tinyworld_clip_names_kinds_of_masked_subjects():
    """Chance is 1 in 8; `experiments/tinyworld/class_nouns.py` measures accuracy on more subjects."""
    rng = np.random.default_rng(3)
    nouns = list(KIND_NAMES)
    suggester = ClassSuggester(
        ClassSuggester.from_pretrained(CLIP, None, "cpu")._encoder.model, load_processor(str(CLIP)), nouns, "cpu"
    )
    right = 0
    for kind in nouns * 2:
        identity, shown = random_identity(rng, kind, held_out=True), []
        for seed in range(4):
            picture = draw(Recipe(str(rng.choice(SCENES)), ((identity, random_placement(rng)),), seed=seed))
            shown.append((np.asarray(picture.image), picture.mask()))
        right += suggester.suggest(shown, 1)[0][0] == kind
    assert right >= 10


def test_shipped_vocabulary_has_coco_and_lvis_names():
    nouns = read_vocabulary()
    assert len(nouns) == len(set(nouns)) == 1214
    assert {"dog", "hot dog", "teapot", "backpack", "aerosol can", "zucchini", "person", "tv"} <= set(nouns)
    assert not any(set(noun) & set("_()#") for noun in nouns)
    assert VOCABULARY.read_text(encoding="utf-8").startswith("#")


@pytest.mark.parametrize(
    "noun, prompt",
    [("dog", "a dog"), ("Airedale", "an Airedale"), ("umbrella", "an umbrella"), ("unicycle", "a unicycle")],
)
def test_articles(noun, prompt):
    assert with_article(noun) == prompt


def test_user_errors_are_one_line(models, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n\n")
    with pytest.raises(UserError, match="has no noun"):
        ClassSuggester.from_pretrained(CLIP, empty, "cpu")
    with pytest.raises(UserError, match="no vocabulary at"):
        ClassSuggester.from_pretrained(CLIP, tmp_path / "gone.txt", "cpu")
    with pytest.raises(UserError, match="is not a CLIP or SigLIP"):
        ClassSuggester.from_pretrained(models / "sam", None, "cpu")
    CLIPModel.from_pretrained(CLIP).save_pretrained(tmp_path / "bare")
    CLIPImageProcessor.from_pretrained(CLIP).save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="lacks its tokenizer"):
        ClassSuggester.from_pretrained(tmp_path / "bare", None, "cpu")
