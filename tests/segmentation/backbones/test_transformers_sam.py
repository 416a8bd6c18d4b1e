"""SAM's relatives in transformers: they compute what transformers does, and PerSAM runs on each; larger inputs."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    Sam2ImageProcessor,
    Sam2Processor,
    Sam3ImageProcessor,
    Sam3TrackerProcessor,
    SamHQProcessor,
    SamImageProcessor,
)
from transformers.utils import import_utils

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import Method, PerSAM, Prompts, Reference, load_backbone
from persam_dreambooth.segmentation.backbones.transformers_sam import FAMILIES, with_larger_input
from persam_dreambooth.segmentation.guidance import Guidance, guided
from persam_dreambooth.segmentation.reference_masks import reference_from
from random_models import random_sam
from tests.scene import scene
from tests.segmentation import random_sams
from tests.segmentation.random_sams import GRID, WIDTH
from tests.segmentation.test_guidance import hooks_in, same

SIZE = (90, 150)
LIKE_SAM2 = ("sam2", "edgetam", "sam3_tracker")


def family(name):
    if name == "edgetam":
        pytest.importorskip("timm")
    return random_sams.FAMILIES[name]


@pytest.fixture(scope="module", params=list(random_sams.FAMILIES))
def kind(request):
    """The config's model_type of the family under test."""
    family(request.param)
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    saved = tmp_path_factory.mktemp("models") / kind
    family(kind)().save_pretrained(saved)
    return saved


@pytest.fixture
def model(kind):
    return family(kind)()


@pytest.fixture
def backbone(model):
    return load_backbone(model, device="cpu")


def encoded(backbone, seed=0):
    """Encode a photo; return its features and extra tensors."""
    photo = scene(*SIZE, seed)[0]
    features, extra = backbone.encode_with_extra(backbone.frame(*SIZE).pixels(photo)[None])
    return features[0], tuple(level[0] for level in extra)


def make_prompts(backbone, box=False, mask=False):
    side, random = backbone.image_size, torch.Generator().manual_seed(0)
    return Prompts(
        torch.tensor([[0.3, 0.4], [0.9, 0.1]]) * side,
        torch.tensor([1, 0]),
        torch.tensor([0.2, 0.3, 0.7, 0.8]) * side if box else None,
        torch.randn(4 * GRID, 4 * GRID, generator=random) * 5 if mask else None,
    )


# Loading


def test_saved_folder_is_recognized_by_its_config(folder, model, kind):
    backbone = load_backbone(folder, device="cpu")
    assert json.loads((folder / "config.json").read_text())["model_type"] == kind
    built = load_backbone(model, device="cpu")
    assert type(backbone) is type(built) is FAMILIES[kind][1]
    assert (backbone.name, built.name) == (str(folder), type(model).__name__)
    assert backbone.checksum == built.checksum
    assert backbone.image_size == (112 if kind == "sam3_tracker" else 128)
    features, extra = encoded(backbone)
    assert features.shape == (WIDTH, GRID, GRID)
    assert same((features, *extra), (lambda features, extra: (features, *extra))(*encoded(built)))
    assert not any(weight.requires_grad for weight in model.parameters())


def test_sam_2_video_folder_loads_as_sam_2(tmp_path):
    video = random_sams.sam2_video()
    video.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path, device="cpu")
    assert type(backbone) is FAMILIES["sam2"][1]
    pixels = backbone.frame(*SIZE).pixels(scene(*SIZE)[0])[None]
    with torch.no_grad():
        finest = video.mask_decoder.conv_s0(video.vision_encoder(pixels).fpn_hidden_states[0])
    torch.testing.assert_close(backbone.encode_with_extra(pixels)[1][0], finest)


@torch.no_grad()
def test_sam_3_folder_loads_as_its_tracker(tmp_path):
    video = random_sams.sam3_video()
    video.config.save_pretrained(tmp_path)
    # Under their names in the model: `save_pretrained` puts a second "tracker_model." before the tracker's.
    state = {name: weight.clone() for name, weight in video.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    backbone = load_backbone(tmp_path, device="cpu")
    assert type(backbone) is FAMILIES["sam3_tracker"][1]
    pixels = backbone.frame(*SIZE).pixels(scene(*SIZE)[0])[None]
    cells = video.detector_model.vision_encoder.backbone(pixels).last_hidden_state  # (1, h * w, C)
    levels, _ = video.tracker_neck(cells.unflatten(1, (GRID, GRID)).permute(0, 3, 1, 2))
    expected = levels[2] + video.tracker_model.no_memory_embedding.view(1, -1, 1, 1)
    torch.testing.assert_close(backbone.encode(pixels), expected)


def test_unknown_model_type_is_refused_with_known_ones(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "sam9"}')
    with pytest.raises(UserError) as refusal:
        load_backbone(tmp_path, device="cpu")
    assert '"sam9"' in str(refusal.value)
    assert all(kind in str(refusal.value) for kind in FAMILIES)


def test_object_that_is_not_sam_is_refused():
    with pytest.raises(UserError, match="a Linear is not a SAM"):
        load_backbone(torch.nn.Linear(1, 1), device="cpu")


def test_edgetam_without_timm_is_refused_naming_timm(tmp_path, monkeypatch):
    family("edgetam")().save_pretrained(tmp_path)
    reason = import_utils.BACKENDS_MAPPING["timm"][1]
    monkeypatch.setitem(import_utils.BACKENDS_MAPPING, "timm", (lambda: False, reason))
    with pytest.raises(UserError, match=r"a package that is not installed.*timm"):
        load_backbone(tmp_path, device="cpu")


def test_folder_with_weights_missing_is_refused(tmp_path):
    model = random_sams.sam2()
    state = {name: weight for name, weight in model.state_dict().items() if "neck" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(UserError, match="of a SAM's weights"):
        load_backbone(tmp_path, device="cpu")


# Parity with transformers


@torch.no_grad()
@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("more", [{}, {"box": True}, {"mask": True}, {"box": True, "mask": True}], ids=str)
def test_encoding_and_decoding_equals_forward_pass(model, backbone, kind, more, multimask):
    if kind == "sam3_tracker":
        model.no_memory_embedding.zero_()  # its class adds it to an unused level; see the next test
    prompts, pixels = make_prompts(backbone, **more), backbone.frame(*SIZE).pixels(scene(*SIZE)[0])[None]
    whole = model(
        pixel_values=pixels,
        input_points=prompts.points[None, None],
        input_labels=prompts.labels[None, None],
        input_boxes=None if prompts.box is None else prompts.box[None, None],
        input_masks=None if prompts.mask is None else prompts.mask[None, None],
        multimask_output=multimask,
    )
    features, extra = encoded(backbone)
    logits, scores = backbone.decode(features, prompts, multimask, extra=extra)
    assert logits.shape == (3 if multimask else 1, 4 * GRID, 4 * GRID)
    if kind == "sam_hq":
        best_first = scores.argsort(descending=True)
        logits, scores = logits[best_first], scores[best_first]
    torch.testing.assert_close(logits, whole.pred_masks[0, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores, whole.iou_scores[0, 0])


@torch.no_grad()
@pytest.mark.parametrize("name", LIKE_SAM2)
def test_no_memory_embedding_is_added_to_level_of_decoder(name):
    model = family(name)()
    backbone = load_backbone(model, device="cpu")
    added = model.no_memory_embedding.flatten().clone()
    assert added.abs().max() > 0.1
    with_it, extra = encoded(backbone)
    model.no_memory_embedding.zero_()
    without, same_extra = encoded(backbone)
    torch.testing.assert_close(with_it - without, added[:, None, None].expand_as(without), rtol=1e-3, atol=1e-3)
    assert same(extra, same_extra)


def processor(kind, side):
    if kind == "sam_hq":
        size = {"height": side, "width": side}
        return SamHQProcessor(SamImageProcessor(size={"longest_edge": side}, pad_size=size))
    if kind == "sam3_tracker":
        return Sam3TrackerProcessor(Sam3ImageProcessor(size={"height": side, "width": side}), target_size=side)
    return Sam2Processor(Sam2ImageProcessor(size={"height": side, "width": side}), target_size=side)


@pytest.mark.parametrize("size", [SIZE, (150, 90), (200, 200)], ids=str)
def test_pixels_points_and_masks_match_processor(backbone, kind, size):
    side, frame = backbone.image_size, backbone.frame(*size)
    photo, point = scene(*size)[0], [70.0, 20.0]
    own = processor(kind, side)
    inputs = own(images=photo, input_points=[[[point]]], input_labels=[[[1]]], return_tensors="pt")
    difference = (frame.pixels(photo) - inputs["pixel_values"][0]).abs() * torch.tensor(frame.std).view(3, 1, 1)
    assert difference.max() < 2.5  # levels of 256: the packages round differently when they resize
    assert difference.mean() < 0.3
    torch.testing.assert_close(frame.to_model(torch.tensor(point)), inputs["input_points"].flatten().float())
    maps = torch.randn(3, 4 * GRID, 4 * GRID, generator=torch.Generator().manual_seed(0))
    sizes = [inputs["original_sizes"]] + ([inputs["reshaped_input_sizes"]] if kind == "sam_hq" else [])
    back = own.image_processor.post_process_masks([maps[None]], *sizes, binarize=False)[0][0]
    torch.testing.assert_close(frame.to_original(maps), back, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_three_masks_of_sam_hq_keep_their_order():
    """PerSAM-F's weights are for the first, second and third mask; transformers sorts them by score."""
    model = random_sams.sam_hq()
    backbone, scores = load_backbone(model, device="cpu"), []
    hook = model.mask_decoder.iou_prediction_head.register_forward_hook(lambda *args: scores.append(args[2]))
    features, extra = encoded(backbone)
    _, found = backbone.decode(features, make_prompts(backbone), multimask=True, extra=extra)
    hook.remove()
    assert torch.equal(found, scores[0][0, 0, 1:])
    assert not torch.equal(found, found.sort(descending=True).values)


@pytest.mark.parametrize("name", LIKE_SAM2)
def test_mask_prompt_is_clamped_to_range_of_sam_2s_predictor(name):
    backbone = load_backbone(family(name)(), device="cpu")
    features, extra = encoded(backbone)
    signs = torch.randn(4 * GRID, 4 * GRID, generator=torch.Generator().manual_seed(0)).sign()
    found = [
        backbone.decode(features, Prompts(*points_of(backbone), mask=signs * size), True, extra=extra)
        for size in (32, 1000, 31)
    ]
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def points_of(backbone):
    prompts = make_prompts(backbone)
    return prompts.points, prompts.labels


def test_each_prompt_changes_masks(backbone):
    features, extra = encoded(backbone)
    elsewhere = Prompts(make_prompts(backbone).points.flip(-1), make_prompts(backbone).labels)
    prompts = [make_prompts(backbone), elsewhere, make_prompts(backbone, box=True), make_prompts(backbone, mask=True)]
    masks = [backbone.decode(features, prompt, True, extra=extra)[0] for prompt in prompts]
    assert not any(torch.allclose(a, b, rtol=1e-3) for number, a in enumerate(masks) for b in masks[:number])


def test_extra_tensors_change_masks(backbone):
    features, extra = encoded(backbone)
    _, other = encoded(backbone, seed=1)
    own, foreign = (
        backbone.decode(features, make_prompts(backbone), True, extra=given)[0] for given in (extra, other)
    )
    assert not torch.allclose(own, foreign)


def test_bfloat16_affects_only_image_encoder(model):
    full, _ = encoded(load_backbone(model, device="cpu"))
    backbone = load_backbone(model, device="cpu", dtype=torch.bfloat16)
    features, extra = encoded(backbone)
    assert {tensor.dtype for tensor in (features, *extra)} == {torch.float32}
    assert torch.corrcoef(torch.stack([full.flatten(), features.flatten()]))[0, 1] > 0.99
    logits, _ = backbone.decode(features, make_prompts(backbone), True, extra=extra)
    assert logits.dtype == torch.float32
    for name, weight in model.named_parameters():
        inside = name.startswith("vision_encoder.")
        assert weight.dtype == (torch.bfloat16 if inside else torch.float32), name


# PerSAM


@pytest.mark.parametrize("method", [Method(), Method("official"), Method("paper"), Method.persam_f()], ids=str)
def test_persam_finds_masks_in_photo_frame_singly_and_in_batches(folder, method):
    persam = PerSAM.from_pretrained(folder, method, device="cpu")
    subject = persam.personalize(Reference(*scene(60, 100)))
    assert subject.target_feature.shape == (WIDTH,)
    photos = [scene(*SIZE)[0], scene(70, 40, seed=1)[0]]
    together = persam.segment(photos, subject)
    for photo, found in zip(photos, together, strict=True):
        alone = persam.segment(photo, subject)
        assert found.mask.shape == found.confidence_map.shape == photo.shape[:2]
        assert found.mask.dtype == bool
        assert found.logits.shape == (4 * GRID, 4 * GRID)
        assert (found.points < [photo.shape[1], photo.shape[0]]).all()
        # The map is flat at the photo's edge, so rounding decides between neighbouring pixels there.
        assert np.abs(found.points - alone.points).max() <= max(photo.shape) / GRID / 2
        np.testing.assert_allclose(found.confidence_map, alone.confidence_map, atol=1e-4)
        if np.array_equal(found.points, alone.points):
            np.testing.assert_allclose(found.passes[0].logits, alone.passes[0].logits, rtol=1e-3, atol=1e-2)


def test_reference_can_be_made_from_box(folder):
    persam = PerSAM.from_pretrained(folder, device="cpu")
    try:
        reference = reference_from(persam, scene(*SIZE)[0], box=(40, 10, 120, 80))
    except UserError as nothing_found:  # a random model may return an empty or a full mask
        assert "SAM takes" in str(nothing_found)
    else:
        assert reference.foreground.shape == SIZE


def test_subject_works_only_with_its_backbone(backbone, kind):
    subject = PerSAM(backbone).personalize(Reference(*scene(60, 100)))
    other = PerSAM(load_backbone(family(kind)(seed=1), device="cpu"))
    with pytest.raises(UserError, match="load that model"):
        other.segment(scene(*SIZE)[0], subject)


# Guidance


@pytest.fixture
def guidance():
    random = torch.Generator().manual_seed(0)
    return Guidance(torch.rand(GRID**2, generator=random) * 20, torch.randn(WIDTH, generator=random))


def test_bias_and_embedding_change_masks_and_are_removed(model, backbone, guidance):
    features, extra = encoded(backbone)
    bias, target = guidance.attention_bias, guidance.target_embedding

    def decode(given=None):
        return backbone.decode(features, make_prompts(backbone), True, given, extra)

    before = decode()
    choices = [Guidance(bias), Guidance(None, target), guidance, Guidance(bias, target, repeat_embedding=False)]
    masks = [before[0]] + [decode(given)[0] for given in choices]
    assert not any(torch.allclose(a, b, rtol=1e-3) for number, a in enumerate(masks) for b in masks[:number])
    assert hooks_in(model) == []
    assert same(decode(), before)
    with pytest.raises(RuntimeError):
        decode(Guidance(bias[:-1], target))
    assert hooks_in(model) == []
    assert same(decode(), before)


@torch.no_grad()
def test_every_block_follows_equation_8(model, backbone, guidance):
    calls = []
    features, extra = encoded(backbone)
    with guided(model.mask_decoder, Guidance(guidance.attention_bias)):
        attached = [
            layer.cross_attn_token_to_image.register_forward_hook(
                lambda layer, args, kwargs, output: calls.append((layer, kwargs, output[0])), with_kwargs=True
            )
            for layer in model.mask_decoder.transformer.layers
        ]
        backbone.decode(features, make_prompts(backbone), True, extra=extra)
        for hook in attached:
            hook.remove()
    assert len(calls) == 2
    for layer, inputs, found in calls:
        expected = by_hand(layer, inputs["query"], inputs["key"], inputs["value"], guidance.attention_bias)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def by_hand(layer, query, key, value, bias):
    """Compute softmax(softmax(Q K^T / sqrt(d)) + bias) V, one head at a time; (1, 1, tokens, C)."""
    q, k, v = layer.q_proj(query)[0, 0], layer.k_proj(key)[0, 0], layer.v_proj(value)[0, 0]
    size, outputs = q.shape[-1] // layer.num_attention_heads, []
    for start in range(0, q.shape[-1], size):
        part = slice(start, start + size)
        attention = (q[:, part] @ k[:, part].T / size**0.5).softmax(dim=-1)
        outputs.append((attention + bias).softmax(dim=-1) @ v[:, part])
    out = layer.out_proj if hasattr(layer, "out_proj") else layer.o_proj
    return out(torch.cat(outputs, dim=-1))[None, None]


# A larger square


def test_only_positions_change():
    sam = random_sam(128)
    old, new = sam.state_dict(), with_larger_input(sam, 192).state_dict()
    changed = {name for name in old if old[name].shape != new[name].shape or not torch.equal(old[name], new[name])}
    layer = "vision_encoder.layers.1.attn."  # the only one without windows
    assert changed == {"vision_encoder.pos_embed", layer + "rel_pos_h", layer + "rel_pos_w"}
    assert new[layer + "rel_pos_h"].shape[0] == 2 * 192 // 16 - 1
    assert new["vision_encoder.pos_embed"].shape[1:3] == (192 // 16, 192 // 16)


def test_positions_keep_their_place_in_a_larger_square():
    """Embeddings that hold the cell's x and y, and the distance of two cells."""
    sam, across = random_sam(128), torch.linspace(0, 1, 8)
    state = sam.state_dict()
    state["vision_encoder.pos_embed"][0, ..., 0], state["vision_encoder.pos_embed"][0, ..., 1] = (
        across,
        across[:, None],
    )
    distance = "vision_encoder.layers.1.attn.rel_pos_w"
    state[distance][:] = torch.linspace(-1, 1, 15)[:, None]
    larger = with_larger_input(sam, 192).state_dict()
    x, y = larger["vision_encoder.pos_embed"][0, ..., 0], larger["vision_encoder.pos_embed"][0, ..., 1]
    for rising in (x, y.T):
        torch.testing.assert_close(rising, rising[:1].expand_as(rising))
        assert (rising[:, 1:-1].diff(dim=1) > 0.05).all()
    assert larger[distance].shape == (23, larger[distance].shape[1])
    torch.testing.assert_close(larger[distance], -larger[distance].flip(0))
    assert (larger[distance].diff(dim=0) >= 0).all()
