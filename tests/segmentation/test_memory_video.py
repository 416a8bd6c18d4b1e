"""Tracking with a video model's memory: results of transformers' inference session, in bounded memory."""

import gc
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import (
    EdgeTamVideoConfig,
    EdgeTamVideoModel,
    Sam2ImageProcessor,
    Sam2VideoConfig,
    Sam2VideoInferenceSession,
    Sam2VideoModel,
    Sam2VideoProcessor,
    Sam2VideoVideoProcessor,
)

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import Method, PerSAM, Reference
from persam_dreambooth.segmentation.memory_video import MemorySegmenter, load_video_model
from random_models import random_sam
from tests.scene import scene
from tests.segmentation import random_sams

SIZE = (90, 150)
SIDE, WIDTH = 128, 128
MASKS, POINTERS = 4, 6  # kept in memory; the models' defaults are 7 and 16
MEMORY = {
    "image_size": SIDE,
    "num_maskmem": MASKS,
    "max_object_pointers_in_encoder": POINTERS,
    "memory_attention_hidden_size": WIDTH,
    "memory_attention_num_layers": 1,
    "memory_attention_rope_feat_sizes": [random_sams.GRID, random_sams.GRID],
    "memory_encoder_hidden_size": WIDTH,
    "memory_encoder_output_channels": 64,  # hard-coded in the models' attention
    "mask_downsampler_embed_dim": WIDTH,
    "memory_fuser_embed_dim": WIDTH,
    "memory_fuser_intermediate_dim": 32,
    "prompt_encoder_config": {"hidden_size": WIDTH, "image_size": SIDE},
    "mask_decoder_config": {**random_sams.DECODER, "hidden_size": WIDTH},
}


def sam2_video(seed=1):
    vision = {**random_sams.SAM2["vision_config"], "fpn_hidden_size": WIDTH}
    config = Sam2VideoConfig(vision_config=vision, **MEMORY, memory_attention_feed_forward_hidden_size=32)
    return random_sams.drawn(Sam2VideoModel, config, seed)


def edgetam_video(seed=1):
    vision = {**random_sams.edgetam().config.vision_config.to_dict(), "fpn_hidden_size": WIDTH}
    perceiver = {"num_latents": 16, "num_latents_2d": 16, "mlp_intermediate_size": 32, "num_layers": 1}
    config = EdgeTamVideoConfig(
        vision_config=vision,
        **MEMORY,
        memory_attention_mlp_hidden_size=32,
        memory_attention_rope_k_sizes=[4, 4],
        **{f"perceiver_resampler_{name}": number for name, number in perceiver.items()},
    )
    return random_sams.drawn(EdgeTamVideoModel, config, seed)


FAMILIES = {"sam2_video": sam2_video, "edgetam_video": edgetam_video}


@pytest.fixture(params=list(FAMILIES))
def kind(request):
    """The config's model_type of the family under test."""
    if request.param == "edgetam_video":
        pytest.importorskip("timm")
    return request.param


@pytest.fixture
def model(kind):
    """A model whose object score is positive in every frame; with random weights it would vary."""
    return seeing(FAMILIES[kind]())


@pytest.fixture(scope="module")
def persam():
    return PerSAM.from_pretrained(random_sam(), Method.persam_f(), device="cpu")


@pytest.fixture(scope="module")
def subjects(persam):
    """Two subjects whose masks overlap."""
    photo, disc = scene(*SIZE)
    corner = np.zeros_like(disc)
    corner[:40, :40] = True
    return [persam.personalize(Reference(photo, mask)) for mask in (disc, corner)]


@torch.no_grad()
def seeing(model, bias=10.0):
    """Set the bias of the object scores."""
    model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(bias)
    return model


def draw_frames(count):
    """Return frames with a moving disc, and grey frames without it."""
    frames = [np.roll(scene(*SIZE, seed)[0], 6 * seed, axis=1) for seed in range(count)]
    return [np.full_like(frame, 120) if number % 5 == 3 else frame for number, frame in enumerate(frames)]


def disc_and_corner():
    """Return the labels of a first frame: a disc and a corner."""
    labels = scene(*SIZE)[1].astype(np.uint8)
    labels[:40, :40] = 2
    return labels


def processor():
    size = {"height": SIDE, "width": SIDE}
    return Sam2VideoProcessor(Sam2ImageProcessor(size=size), Sam2VideoVideoProcessor(size=size))


def session_outputs(model, frames, masks):
    """Run transformers' session on the whole video; return (logits (N, h, w), object scores (N,)) per frame."""
    own = processor()
    session = own.init_video_session(video=np.stack(frames), dtype=model.dtype)
    numbers = list(range(1, len(masks) + 1))
    own.add_inputs_to_inference_session(session, 0, numbers, input_masks=list(masks))
    outputs = model.propagate_in_video_iterator(session, start_frame_idx=0)
    return [(output.pred_masks[:, 0], output.object_score_logits.flatten()) for output in outputs]


@contextmanager
def recorded(model):
    """Record the (h, w) logits and the object score of every call of the model: one per subject and frame."""
    outputs = []
    with model.register_forward_hook(
        lambda module, args, output: outputs.append((output.pred_masks[0, 0], output.object_score_logits.flatten()[0]))
    ):
        yield outputs


def close(first, second):
    return torch.allclose(first, second, rtol=1e-4, atol=1e-4)


# Parity with transformers' inference session


def test_frame_by_frame_equals_session_on_whole_video(model):
    frames, labels = draw_frames(3 * POINTERS), disc_and_corner()
    masks = [labels == 1, labels == 2]
    with recorded(model) as outputs:
        list(MemorySegmenter(model).follow(iter(frames), labels))
    together = session_outputs(model, frames, masks)
    for place in (0, 1):
        alone = session_outputs(model, frames, [masks[place]])
        for (found, score), (logits, reference), (both, _) in zip(outputs[place::2], alone, together, strict=True):
            assert close(found, logits[0])
            assert close(score, reference[0])
            # Here the memory encoder gets both masks in one call; its rounding to bfloat16 amplifies differences.
            torch.testing.assert_close(found, both[place], rtol=1e-3, atol=1e-3)


def test_each_pixel_goes_to_highest_session_logit(model):
    frames, labels = draw_frames(POINTERS), disc_and_corner()
    expected = session_outputs(model, frames, [labels == 1, labels == 2])
    seen = list(MemorySegmenter(model).follow(frames, labels))
    for (low, _), frame in zip(expected[1:], seen[1:], strict=True):
        logits = processor().post_process_masks([low[:, None]], [SIZE], binarize=False)[0][:, 0]
        best, winner = logits.max(0)
        sure = ((logits[0] - logits[1]).abs() > 1e-3) & (best.abs() > 1e-3)
        assert sure.float().mean() > 0.8
        assert torch.equal(torch.from_numpy(frame.labels)[sure].long(), torch.where(best > 0, winner + 1, 0)[sure])


def test_session_depends_on_its_memory(model):
    """So the tests above are valid: the first mask and the oldest frame in memory change the result."""
    frames, labels = draw_frames(3 * POINTERS), disc_and_corner()
    disc = session_outputs(model, frames, [labels == 1])
    corner = session_outputs(model, frames, [labels == 2])
    assert not close(disc[-1][0], corner[-1][0])
    last = len(frames) - 1
    changed = [
        np.full_like(frame, 255) if number == last - POINTERS + 1 else frame for number, frame in enumerate(frames)
    ]
    assert not close(disc[-1][0], session_outputs(model, changed, [labels == 1])[-1][0])


def test_score_is_predicted_iou_of_selected_mask(model):
    predicted = []
    head = model.mask_decoder.iou_prediction_head
    with head.register_forward_hook(lambda module, args, output: predicted.append(output)):
        seen = list(MemorySegmenter(model).follow(draw_frames(3), scene(*SIZE)[1].astype(np.uint8)))
    assert seen[0].scores == (1.0,)
    for frame, scores in zip(seen[1:], predicted[1:], strict=True):  # of the single mask and of the three masks
        assert frame.scores == (pytest.approx(float(scores[0, 0, 1:].max())),)


def test_subject_with_negative_object_score_is_absent_and_returns(kind):
    model, frames, mask = FAMILIES[kind](), draw_frames(14), scene(*SIZE)[1]
    reference = torch.stack([score[0] for _, score in session_outputs(seeing(model, 0.0), frames, [mask])])
    seeing(model, -float(reference[1:].median()))
    expected = [bool(score[0] > 0) for _, score in session_outputs(model, frames, [mask])]
    seen = list(MemorySegmenter(model).follow(frames, mask.astype(np.uint8)))
    there = [frame.scores[0] is not None for frame in seen]
    assert there == expected
    assert there == [bool((frame.labels == 1).any()) for frame in seen]
    assert any(now and not before for before, now in pairwise(there)), there


# Streams


def test_first_labels_are_kept_and_later_masks_are_disjoint(model):
    labels = disc_and_corner()
    seen = list(MemorySegmenter(model).follow(draw_frames(4), labels))
    np.testing.assert_array_equal(seen[0].labels, labels)
    assert seen[0].scores == (1.0, 1.0)
    alone = [list(MemorySegmenter(model).follow(draw_frames(4), (labels == n).astype(np.uint8))) for n in (1, 2)]
    for both, first, second in zip(seen[1:], *(each[1:] for each in alone), strict=True):
        assert both.labels.dtype == np.uint8
        assert both.labels.shape == SIZE
        np.testing.assert_array_equal(both.labels > 0, (first.labels > 0) | (second.labels > 0))
        assert (both.labels[(first.labels > 0) & (second.labels == 0)] == 1).all()
        assert (both.labels[(second.labels > 0) & (first.labels == 0)] == 2).all()
        assert both.scores == first.scores + second.scores


def test_calls_per_frame_equal_one_call(model):
    frames, labels = draw_frames(9), disc_and_corner()
    together = list(MemorySegmenter(model).follow(frames, labels))
    segmenter = MemorySegmenter(model)
    for number, (frame, expected) in enumerate(zip(frames, together, strict=True)):
        (seen,) = segmenter.follow([frame], labels if number == 0 else None)
        np.testing.assert_array_equal(seen.labels, expected.labels)
        assert seen.scores == expected.scores


def test_labels_in_later_call_reset_memory(model):
    frames, labels = draw_frames(6), disc_and_corner()
    segmenter = MemorySegmenter(model)
    list(segmenter.follow(draw_frames(5), (labels == 2).astype(np.uint8)))
    again = list(segmenter.follow(frames, labels))
    for seen, expected in zip(again, MemorySegmenter(model).follow(frames, labels), strict=True):
        np.testing.assert_array_equal(seen.labels, expected.labels)
        assert seen.scores == pytest.approx(expected.scores)


def test_image_is_encoded_once_per_frame(model):
    calls, labels = [], disc_and_corner()
    with model.vision_encoder.register_forward_hook(lambda *args: calls.append(1)):
        for number, _ in enumerate(MemorySegmenter(model).follow(draw_frames(5), labels), start=1):
            assert len(calls) == number


def tensors():
    gc.collect()
    return [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]


def size(found):
    """Return the number of tensors and of their elements."""
    return len(found), sum(tensor.numel() for tensor in found)


def entries(held):
    """Return the number of items that transformers' sessions hold, of any kind."""
    if isinstance(held, dict | list):
        return len(held) + sum(map(entries, held.values() if isinstance(held, dict) else held))
    return 0


def sessions():
    return [item for item in gc.get_objects() if type(item) is Sam2VideoInferenceSession]


def masks(found):
    """Select the model's masks, in either resolution."""
    return [tensor for tensor in found if tensor.shape in [(1, 1, SIDE, SIDE), (1, 1, SIDE // 4, SIDE // 4)]]


def encoded_masks(found):
    """Select the memory encoder's outputs, by SAM 2's and EdgeTAM's shape."""
    return [tensor for tensor in found if tensor.shape in [(random_sams.GRID**2, 1, 64), (1, 32, 64)]]


def test_memory_does_not_grow_with_number_of_frames(model):
    """Checked against transformers' own session, which does grow, so the measurement is valid."""
    labels, picture = disc_and_corner(), scene(*SIZE)[0]
    segmenter, held = MemorySegmenter(model), []
    for number, _ in enumerate(segmenter.follow((picture.copy() for _ in range(30)), labels)):
        if number in (POINTERS, 12, 29):
            held.append((*size(tensors()), [entries(vars(session)) for session in sessions()]))
    assert held[0] == held[1] == held[2]
    assert len(sessions()) == 2
    assert not masks(tensors())
    assert len(encoded_masks(tensors())) == 2 * MASKS * 2  # of two subjects, each with its positions
    own = processor()
    session, grown = own.init_video_session(), []
    own.add_inputs_to_inference_session(session, 0, [1, 2], input_masks=[labels == 1, labels == 2])
    for number in range(12):
        model(session, frame=own(images=picture, return_tensors="pt")["pixel_values"][0])
        if number in (POINTERS, 11):
            grown.append(size(tensors()))
    assert grown[1][0] > grown[0][0] + 20
    assert grown[0] > held[0][:2]
    assert masks(tensors())


# PerSAM finds the subjects to track


def scores_of(persam, frames, subject):
    return [persam.segment(frame, subject).score for frame in frames]


def test_without_labels_persam_masks_of_first_frame_are_tracked(model, persam, subjects):
    frames = draw_frames(4)
    found = [persam.segment(frames[0], subject) for subject in subjects]
    frame = persam.backbone.frame(*SIZE)
    logits = torch.cat([frame.to_original(torch.from_numpy(segmentation.logits)[None]) for segmentation in found])
    expected = torch.where(logits.max(0).values > 0, logits.argmax(0) + 1, 0).numpy().astype(np.uint8)
    assert (found[0].mask & found[1].mask).any()
    assert {1, 2} <= set(np.unique(expected))
    seen = list(MemorySegmenter(model, persam, subjects, lost_below=None).follow(frames))
    np.testing.assert_array_equal(seen[0].labels, expected)
    assert seen[0].scores == tuple(segmentation.score for segmentation in found)
    reference = list(MemorySegmenter(model).follow(frames, expected))
    for frame, expected in zip(seen[1:], reference[1:], strict=True):
        np.testing.assert_array_equal(frame.labels, expected.labels)
        assert frame.scores == pytest.approx(expected.scores)


def test_missing_subject_is_searched_until_found_and_then_tracked(model, persam, subjects):
    frames, subject = draw_frames(8), subjects[0]
    quality = scores_of(persam, frames, subject)
    order = sorted(range(len(frames)), key=quality.__getitem__)
    frames, joins = [frames[number] for number in order], 3
    threshold = (quality[order[joins - 1]] + quality[order[joins]]) / 2
    seen = list(MemorySegmenter(model, persam, [subject], threshold).follow(frames))
    assert all(frame.scores == (None,) and not frame.labels.any() for frame in seen[:joins])
    found = persam.segment(frames[joins], subject)
    np.testing.assert_array_equal(seen[joins].labels == 1, found.mask)
    assert seen[joins].scores == (found.score,)
    reference = list(MemorySegmenter(model).follow(frames[joins:], found.mask.astype(np.uint8)))
    for frame, expected in zip(seen[joins + 1 :], reference[1:], strict=True):
        np.testing.assert_array_equal(frame.labels, expected.labels)


def test_late_subject_does_not_affect_memory_of_others(model, persam, subjects):
    """With one session for both, transformers' EdgeTAM fails here and its SAM 2 changes the first one's memory."""
    frames, labels = draw_frames(8), scene(*SIZE)[1].astype(np.uint8)
    with recorded(model) as alone:
        list(MemorySegmenter(model).follow(frames, labels))
    quality = scores_of(persam, frames, subjects[1])
    frames_left = list(range(1, len(frames)))
    threshold = sorted(quality[number] for number in frames_left)[-2]
    joins = next(number for number in frames_left if quality[number] >= threshold)
    with recorded(model) as both:
        seen = list(MemorySegmenter(model, persam, subjects, threshold).follow(frames, labels))
    late = [number for number, frame in enumerate(seen) if frame.scores[1] is not None]
    assert late[0] == joins
    assert all((frame.labels != 2).all() for frame in seen[:joins])
    assert (seen[joins].labels == 2).any()
    # The first subject's outputs: alone until the other joins, in that frame before it, then every other one.
    first = [*both[: joins + 1], *both[joins + 2 :: 2]]
    assert len(first) == len(alone)
    assert all(torch.equal(output[0], expected[0]) for output, expected in zip(first, alone, strict=True))


def test_same_folder_can_be_sam_and_memory(tmp_path):
    sam2_video().save_pretrained(tmp_path)
    persam = PerSAM.from_pretrained(tmp_path, Method(), device="cpu")
    photo, disc = scene(*SIZE)
    subject = persam.personalize(Reference(photo, disc))
    follower = MemorySegmenter.from_pretrained(str(tmp_path), persam, [subject], lost_below=None, device="cpu")
    (first,) = follower.follow([photo])
    np.testing.assert_array_equal(first.labels == 1, persam.segment(photo, subject).mask)
    assert first.labels.any()


# Loading


def test_saved_folder_is_recognized_and_tracks_same(kind, model, tmp_path):
    model.save_pretrained(tmp_path)
    frames, labels = draw_frames(5), disc_and_corner()
    loaded = list(MemorySegmenter.from_pretrained(str(tmp_path), device="cpu").follow(frames, labels))
    for frame, expected in zip(loaded, MemorySegmenter(model).follow(frames, labels), strict=True):
        # Not bit-identical: on some processors rounding depends on where the weights lie in memory.
        assert np.mean(frame.labels != expected.labels) <= 0.001
        assert frame.scores == pytest.approx(expected.scores, rel=1e-3)


def test_bfloat16_applies_to_whole_model(model, tmp_path):
    model.save_pretrained(tmp_path)
    frames, mask = draw_frames(POINTERS), scene(*SIZE)[1]  # with fewer frames, the session encodes time differently
    loaded = load_video_model(str(tmp_path), "cpu", torch.bfloat16)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in loaded.parameters())
    with recorded(loaded) as outputs:
        seen = list(MemorySegmenter(loaded).follow(frames, mask.astype(np.uint8)))
    expected = session_outputs(loaded, frames, [mask])
    assert all(close(output[0], reference[0][0]) for output, reference in zip(outputs, expected, strict=True))
    assert all(frame.scores[0] is not None for frame in seen)


def test_foreign_model_folder_is_refused_with_known_types(tmp_path):
    random_sams.sam2().save_pretrained(tmp_path)
    with pytest.raises(UserError) as refusal:
        MemorySegmenter.from_pretrained(str(tmp_path), device="cpu")
    assert '"sam2"' in str(refusal.value)
    assert all(kind in str(refusal.value) for kind in FAMILIES)
    with pytest.raises(UserError, match="no SAM 2 or EdgeTAM for videos at 'nowhere/at/all'"):
        MemorySegmenter.from_pretrained("nowhere/at/all", device="cpu")


def test_folder_without_memory_weights_is_refused(tmp_path):
    model = sam2_video()
    state = {name: weight for name, weight in model.state_dict().items() if "memory_encoder" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(UserError, match=r"lacks .* weights .*memory_encoder"):
        MemorySegmenter.from_pretrained(str(tmp_path), device="cpu")


# Refused inputs


def test_missing_subjects_and_mismatched_labels_are_refused(persam, subjects):
    model, (picture, disc) = sam2_video(), scene(*SIZE)
    mistakes = [
        (MemorySegmenter(model), None, "no subject to track"),
        (MemorySegmenter(model), np.zeros(SIZE, np.uint8), "labels are empty"),
        (MemorySegmenter(model), np.ones((9, 9), np.uint8), r"shape \(9, 9\), the frame \(90, 150\)"),
        (MemorySegmenter(model, persam, subjects), 3 * disc.astype(np.uint8), "go up to 3, but only 2"),
    ]
    for segmenter, labels, words in mistakes:
        with pytest.raises(UserError, match=words) as refusal:
            list(segmenter.follow([picture], labels))
        assert "\n" not in str(refusal.value)


def test_subjects_without_persam_or_too_many_are_refused(persam, subjects):
    model = sam2_video()
    with pytest.raises(UserError, match="without a one-shot method to find them"):
        MemorySegmenter(model, None, subjects)
    with pytest.raises(UserError, match="1 to 255 subjects, not 256"):
        MemorySegmenter(model, persam, subjects * 128)
    other = PerSAM.from_pretrained(random_sams.sam2(), Method.persam_f(), device="cpu")
    with pytest.raises(UserError, match="made with SamModel"):
        MemorySegmenter(model, other, subjects)
