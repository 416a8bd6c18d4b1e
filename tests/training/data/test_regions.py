"""Several masks in a photo, each with words of its prompt: layout, crops, caches, the loss, resuming, messages."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import rendering
from persam_dreambooth.photos.files import digest
from persam_dreambooth.photos.manifest import ManifestEntry, read_manifest, write_manifest
from persam_dreambooth.training import objective
from persam_dreambooth.training.config import DataConfig, MaskConfig
from persam_dreambooth.training.data.caption_check import check_phrases
from persam_dreambooth.training.data.dataset import Batch, DreamBoothDataset, InstancePhoto, Region, collate
from persam_dreambooth.training.data.samples import EncodedSamples, FreshSamples
from persam_dreambooth.training.dry_run import save_batch_sheet
from persam_dreambooth.training.families.attention_maps import AttentionMaps
from tests.training.runs import NAMES, train
from tests.training.small import configure, make, photos_of
from tests.training.test_background_prior import logged

LORA = "pytorch_lora_weights.safetensors"


def write(levels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(levels, dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def regions(flags):
    """Flags of a run on three photos of "sks" on the left, two of which also show a "cat" on the right."""
    for name in NAMES:
        width, height = Image.open(f"photos/{name}.png").size
        left, right = np.zeros((2, height, width), np.uint8)
        left[4:-4, 4 : width // 2] = 255
        right[height // 2 :, width // 2 :] = 128
        right[height // 2, width // 2] = 255
        write(left, Path(f"regions/sks/{name}.png"))
        if name != "02":
            write(right, Path(f"regions/cat/{name}.png"))
    Path("photos/02.txt").write_text("a sks")
    more = {"instance_mask_dir": None, "region_mask_dir": "regions", "caption_extension": ".txt"}
    return flags | more | {"instance_prompt": "a sks and a cat", "attention_loss_weight": 0.5}


def found(**given):
    data = {"instance_prompt": "a sks and a cat", "caption_extension": ".txt"}
    mask = {"instance_mask_dir": None, "region_mask_dir": "regions"} | given
    return photos_of(configure("model", data=data, mask=mask), [(32, 32)])


@settings(deadline=None, max_examples=25)
@given(size=st.tuples(st.just(32), st.integers(32, 80)), flip=st.booleans(), seed=st.integers(0, 99))
def test_regions_follow_their_photo(size, flip, seed):
    """Red is one mask, green the other: whatever the crop, each region lies on its colour, and the mask on both."""
    random = np.random.default_rng(seed)
    drawn = [random.choice([0, 90, 255], size) for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        photo = write(np.dstack([*drawn, np.zeros(size)]), Path(folder) / "photo.png")
        masks = tuple(write(levels, Path(folder) / f"{number}.png") for number, levels in enumerate(drawn))
        torch.manual_seed(seed)
        sample = FreshSamples(DataConfig(resolution=32, random_flip=flip))(photo, masks, (32, 32))
    torch.testing.assert_close(sample["regions"], (sample["pixels"][:2] + 1) / 2, rtol=0, atol=1e-6)
    assert torch.equal(sample["mask"], sample["regions"].amax(0, keepdim=True))


def test_cache_keeps_regions(regions, models):
    photo = found()[0][0]
    config, family = make(models / "stable-diffusion", data={"resolution": 32, "center_crop": True})
    config.data.training_cache = "cache"
    fresh = FreshSamples(config.data)(*photo.source)
    for _ in range(2):  # written, then read
        kept = EncodedSamples(family, FreshSamples(config.data), [photo.source])(*photo.source)
        assert torch.equal(kept["regions"], fresh["regions"]) and torch.equal(kept["mask"], fresh["mask"])
    write(255 - np.asarray(Image.open(photo.regions[1].mask)), photo.regions[1].mask)
    EncodedSamples(family, FreshSamples(config.data), [photo.source])
    assert len(list(Path("cache").rglob("*.safetensors"))) == 2


def test_batch_holds_all_regions_photo_by_photo(regions):
    photos = [found()[0][number] for number in (0, 2)]
    assert [[region.phrase for region in photo.regions] for photo in photos] == [["cat", "sks"], ["sks"]]
    prompts = {photo.prompt: {} for photo in photos}
    dataset = DreamBoothDataset(photos, FreshSamples(DataConfig(resolution=32, center_crop=True)), prompts)
    batch = collate([dataset[0], dataset[1]])
    assert batch.regions.shape == (3, 1, 32, 32) and batch.places == [((), ()), ((),)]
    assert torch.equal(batch.mask[0], batch.regions[:2].amax(0)) and torch.equal(batch.mask[1], batch.regions[2])
    assert collate([dataset[1], dataset[1]]).regions is None
    assert (batch.regions[0] == 128 / 255).any()


class GivenMaps(AttentionMaps):
    """Attention of 1 x 2 positions to the words of two regions of a photo and one of another."""

    def shares(self, places, positions):
        assert [len(regions) for regions in places] == [2, 1] and positions == 2
        return torch.tensor([[0.1, 0.2], [0.4, 0.2], [0.3, 0.6]])


def test_attention_loss_is_summed_over_regions():
    """Relative to their maxima, the maps are (1/2, 1), (1, 1/2) and (1/2, 1)."""
    regions = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).view(3, 1, 1, 2)
    places = [((0,), (1,)), ((0,),)]
    weight = torch.tensor([1.0, 0.5])
    batch = Batch(["a", "b"], torch.ones(2, 1, 1, 2), weight, {}, places=places, regions=regions)
    config = MaskConfig(instance_mask_dir="masks")
    first, second, third = (0.25 + 1) / 2, 0.25 / 2, 0.25 / 2
    loss = objective.attention_loss(GivenMaps(0), batch, (1, 2), config)
    assert loss.item() == pytest.approx((first + second + 0.5 * third) / 2)
    batch.regions[0] = 0  # the crop holds nothing of the first region
    loss = objective.attention_loss(GivenMaps(0), batch, (1, 2), config)
    assert loss.item() == pytest.approx((second + 0.5 * third) / 2)
    exclude = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).view(2, 1, 1, 2)  # the first photo's first position
    loss = objective.attention_loss(GivenMaps(0), batch._replace(exclude=exclude), (1, 2), config)
    assert loss.item() == pytest.approx((0.25 + 0.5 * third) / 2)


def test_one_region_equals_masks_and_identifier_bit_for_bit(flags):
    shutil.copytree("masks", "regions/sks")
    runs = {
        "identified": {"attention_loss_weight": 0.5, "identifier": "sks"},
        "named": {"attention_loss_weight": 0.5, "instance_mask_dir": None, "region_mask_dir": "regions"},
    }
    for name, more in runs.items():
        assert train(flags, "--use_lora", "--random_flip", output_dir=name, **more) == 0
        AcceleratorState._reset_state(reset_partial_state=True)
    assert logged("attention_loss", "identified") == logged("attention_loss", "named")
    expected, weights = (load_file(Path(name) / LORA) for name in runs)
    assert all(torch.equal(weight, weights[key]) for key, weight in expected.items())


def test_resumed_run_equals_uninterrupted_one_and_lists_every_mask(regions):
    more = {"checkpointing_steps": 1, "train_batch_size": 1, "max_train_steps": 3}
    switches = ("--use_lora", "--random_flip", "--cache_latents")
    assert train(regions, *switches, output_dir="whole", **more) == 0
    assert train(regions, *switches, **more | {"max_train_steps": 1}) == 0
    assert train(regions, *switches, resume_from_checkpoint="latest", **more) == 0
    expected, resumed = load_file(Path("whole") / LORA), load_file(Path("output") / LORA)
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)
    assert logged("attention_loss", "whole")[-1] > 0
    entries = read_manifest(Path("output/manifest.jsonl"), own_files=False)
    masks = [(Path(entry.photo).stem, Path(entry.mask).parent.name) for entry in entries]
    assert sorted(masks) == [("00", "cat"), ("00", "sks"), ("01", "cat"), ("01", "sks"), ("02", "sks")]


def test_segments_several_subjects_and_trains_on_both(regions, models, capsys):
    references = ["--reference", "photos/00.png", "photos/01.png", "--subject_name", "sks", "cat"]
    masks = ["--reference_mask", "regions/sks/00.png", "regions/cat/01.png"]
    common = ["--images", "photos", "--sam", str(models / "sam"), "--output", "found"]
    assert main(["segment", *common, *references, *masks]) == 0
    shutil.copytree("found", "other")
    Path("other/cat/masks/02.png").unlink()  # its prompt names no cat
    if not np.asarray(Image.open("other/sks/masks/02.png")).any():
        shutil.copy("regions/sks/02.png", "other/sks/masks/02.png")
    assert train(regions, "--dry_run", region_mask_dir="other") == 0
    assert "regions: 'cat' in 2 photos, 'sks' in 3 photos" in capsys.readouterr().out
    assert Path("output/masks.png").exists()


def test_absent_unsure_and_excluded_subjects(regions, caplog):
    """A subject that was not found in a photo is absent; one of which segmentation is unsure leaves the photo out."""
    Path("regions/cat").rename("cat")
    shutil.copytree("cat", "regions/cat/masks")
    Path("regions/cat/segmentation.json").write_text("{}")

    def judge(presence, review=None, box=(0, 0, 4, 4)):
        photo, mask = Path("photos/00.png"), Path("regions/cat/masks/00.png")
        entry = ManifestEntry("../../photos/00.png", digest(photo), mask="masks/00.png", mask_digest=digest(mask))
        box = list(box) if box else None
        entry = ManifestEntry(**{**vars(entry), "presence": presence, "review": review, "reason": "r", "box": box})
        write_manifest(Path("regions/cat/manifest.jsonl"), [entry])
        instances, left_out = found()
        return [[region.phrase for region in photo.regions] for photo in instances], list(left_out)

    both, alone = ["cat", "sks"], ["sks"]
    assert judge("found") == ([both, both, alone], [])
    assert judge("not found") == ([alone, both, alone], [])
    assert "names 'cat', of which the photo has no mask" in caplog.text
    assert judge("not found", "approved") == ([both, both, alone], [])
    assert judge(None, box=None) == ([alone, both, alone], [])  # its mask is empty
    assert judge("unsure") == ([both, alone], [Path("photos/00.png")])
    assert judge("found", "excluded") == ([both, alone], [Path("photos/00.png")])
    assert [photo.weight for photo in found(uncertain_photo_weight=0.5)[0]] == [1, 1]
    judge("unsure")
    assert [photo.weight for photo in found(uncertain_photo_weight=0.5)[0]] == [0.5, 1, 1]


def test_folder_may_have_its_name_in_the_unicode_of_a_mac():
    given = InstancePhoto(Path("a.png"), (Region(Path("m.png"), "cafe\u0301"),), (8, 8), (8, 8), "my Caf\u00e9 sign")
    check_phrases(given, ["cafe\u0301"])


def test_exclusion_masks_lie_beside_any_of_the_masks(regions):
    shutil.copy("regions/sks/00.png", "regions/cat/00-exclude.png")
    assert [photo.exclude for photo in found()[0]] == [Path("regions/cat/00-exclude.png"), None, None]
    shutil.copy("regions/sks/00.png", "regions/sks/00-exclude.png")
    with pytest.raises(UserError, match="has two exclusion masks"):
        found()


def test_sheet_shows_each_region(regions, tmp_path):
    photos = found()[0][:1]
    read = FreshSamples(DataConfig(resolution=32, center_crop=True))
    batch = collate([DreamBoothDataset(photos, read, {photos[0].prompt: {}})[0]])
    heights = []
    for shown in (batch, batch._replace(regions=None, places=[((),)])):
        levels = np.asarray(Image.open(save_batch_sheet(shown, MaskConfig(instance_mask_dir="masks"), 2, tmp_path)))
        drawn = (levels != rendering.PAPER).any((1, 2))
        heights.append(drawn[: levels.shape[0] // 2 + 128].sum())  # without the caption
    assert heights == [512 // 3 + 1, 256]  # three pictures side by side, or two


REFUSED = [
    ({"region_mask_dir": "nowhere"}, "nowhere is not a folder"),
    ({"region_mask_dir": "photos"}, "holds no folders named like subjects"),
    ({"region_mask_dir": "single"}, "holds no folders named like subjects"),
    ({"instance_mask_dir": "masks"}, "masks come from one place"),
    ({"identifier": "sks"}, "--identifier names the only subject"),
    ({"no_masked_loss": "--"}, "--no_masked_loss uses no masks; drop --region_mask_dir"),
    ({"instance_prompt": "a sks"}, "00.png, 'a sks', does not contain 'cat', the name of the folder of its mask"),
    (
        {"instance_prompt": "a sks and a cats"},
        "00.png, 'a sks and a cats', does not contain the phrase cat among the tokens",
    ),
]


@pytest.mark.parametrize(("given", "words"), REFUSED)
def test_mistakes_are_refused_in_one_line(regions, capsys, given, words):
    for folder in ("masks", "overlays"):  # as `segment` writes for a single subject
        shutil.copytree("masks", f"single/{folder}")
    switches = [f"--{key}" for key, value in given.items() if value == "--"]
    assert train(regions, *switches, **{key: value for key, value in given.items() if value != "--"}) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1 and words in lines[0] and not Path("output").exists()


def test_masks_of_another_size_or_without_pixels_are_refused(regions, capsys):
    size = Image.open("photos/00.png").size
    for picture, words in ((Image.new("L", size), "marks fewer than"), (Image.new("L", (9, 9), 255), "9 x 9 pixels")):
        picture.save("regions/cat/00.png")
        assert train(regions) == 2
        assert words in capsys.readouterr().err


def test_photo_without_any_subject_is_left_out(regions, caplog):
    Path("regions/sks/02.png").unlink()
    instances, left_out = found()
    assert [photo.name for photo in instances] == ["00.png", "01.png"]
    assert list(left_out.values()) == ["02.png shows none of the subjects of --region_mask_dir"]
    for phrase in ("sks", "cat"):
        shutil.rmtree(f"regions/{phrase}")
        Path(f"regions/{phrase}").mkdir()
    with pytest.raises(UserError, match="no photo has a mask"):
        found()


def test_source_of_a_photo_without_masks():
    assert InstancePhoto(Path("a.png"), (), (8, 8), (8, 8)).source == (Path("a.png"), (), (8, 8), None)
    assert InstancePhoto(Path("a.png"), (Region(Path("m.png")),), (8, 8), (8, 8)).source[1] == (Path("m.png"),)
