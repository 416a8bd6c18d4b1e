"""User errors end in a one-line message and exit code 2, with nothing written."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from persam_dreambooth.cli import main
from random_models import random_stable_diffusion
from tests.training.runs import RunsCode, as_words


@pytest.fixture
def flags(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for folder in ("photos", "masks"):
        Path(folder).mkdir()
    for name in ("a", "b"):
        Image.fromarray(random.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(f"photos/{name}.png")
        mask = np.zeros((40, 48), dtype=np.uint8)
        mask[10:30, 10:30] = 255
        Image.fromarray(mask).save(f"masks/{name}.png")
    Image.fromarray(mask).save("reference.png")
    return {
        "pretrained_model_name_or_path": models / "stable-diffusion",
        "instance_data_dir": "photos",
        "instance_mask_dir": "masks",
        "instance_prompt": "a sks dog",
        "output_dir": "output",
        "resolution": 32,
        "max_train_steps": 1,
    }


def write_config(text):
    Path("config.yaml").write_text(text)


def save_clip_config():
    Path("clip").mkdir()
    Path("clip/config.json").write_text(json.dumps({"model_type": "clip"}))


def save_video_pipeline():
    Path("video").mkdir()
    Path("video/model_index.json").write_text(json.dumps({"_class_name": "VideoPipeline"}))


def save_sample_predictor():
    random_stable_diffusion(prediction_type="sample").save_pretrained("sampler")


def blank(path, size=(48, 40), level=0):
    Image.new("L", size, level).save(path)


def save_base():
    random_stable_diffusion().save_pretrained("base")


def save_damaged_base():
    save_base()
    Path("base/unet/diffusion_pytorch_model.safetensors").write_bytes(b"garbage")


def save_incomplete_base():
    save_base()
    path = "base/text_encoder/model.safetensors"
    weights = load_file(path)
    save_file(dict(list(weights.items())[3:]), path, metadata={"format": "pt"})


OUTSIDE = [
    ("learning_rate", -1.0),
    ("learning_rate", float("nan")),
    ("adam_beta1", 2.0),
    ("adam_epsilon", -1.0),
    ("dataloader_num_workers", -1),
    ("tokenizer_max_length", 1000),
    ("validation_steps", 0),
    ("num_validation_images", 0),
    ("seed", -1),
    ("max_grad_norm", -1.0),
    ("lr_warmup_steps", -1),
    ("snr_gamma", 0.0),
    ("lr_power", -1.0),
    ("checkpointing_steps", 0),
    ("background_weight", 1.5),
    ("background_prior_weight", -1.0),
    ("background_prior_weight", float("nan")),
    ("background_prior_weight", float("inf")),
]
REFERENCE = {"instance_mask_dir": None, "reference_image": "photos/b.png", "reference_mask": "reference.png"}
CASES = {
    # name: (setup, changed flags, words that the message must contain)
    "no photo": (lambda: [path.unlink() for path in Path("photos").iterdir()], {}, ["no photo found in photos"]),
    "no folder": (None, {"instance_data_dir": "nowhere"}, ["nowhere is not a folder"]),
    "no readable photo": (
        lambda: [path.write_bytes(b"x") for path in Path("photos").iterdir()],
        {},
        ["none of the 2 photos can be decoded"],
    ),
    "same stem twice": (lambda: Path("photos/a.jpg").touch(), {}, ["a.jpg and a.png", "rename"]),
    "mask missing": (lambda: Path("masks/a.png").unlink(), {}, ["no mask in masks for a.png"]),
    "no mask folder": (None, {"instance_mask_dir": "nowhere"}, ["--instance_mask_dir nowhere"]),
    "mask of another size": (lambda: blank("masks/a.png", (20, 20), 255), {}, ["20 x 20", "48 x 40"]),
    "mask empty": (lambda: blank("masks/a.png"), {}, ["a.png is empty on the latent grid"]),
    "no masks at all": (
        None,
        {"instance_mask_dir": None},
        ["masks are needed: give --instance_mask_dir", "--no_masked_loss"],
    ),
    "masks from two places": (
        None,
        REFERENCE | {"instance_mask_dir": "masks"},
        ["masks come from one place, and --instance_mask_dir and --reference_image were given"],
    ),
    "reference without mask": (None, REFERENCE | {"reference_mask": None}, ["belong together"]),
    "reference mask empty": (lambda: blank("reference.png"), REFERENCE, ["reference.png is empty"]),
    "reference mask full": (lambda: blank("reference.png", level=255), REFERENCE, ["reference.png is full"]),
    "reference mask of another size": (lambda: blank("reference.png", (20, 20)), REFERENCE, ["20 x 20", "48 x 40"]),
    "method without reference": (
        None,
        {"segmentation_method": "persam-f"},
        ["--segmentation_method is about masks that are made from --reference_image"],
    ),
    "features without reference": (None, {"segmentation_features": "dino"}, ["or drop --segmentation_features"]),
    "size without features": (
        None,
        REFERENCE | {"segmentation_features_size": 64},
        ["give --segmentation_features, or leave it out"],
    ),
    "SAM for a method without one": (
        None,
        REFERENCE | {"segmentation_method": "insid3", "sam": "vit_h"},
        ["--sam has no effect on --segmentation_method insid3"],
    ),
    "DINO for SegGPT": (
        None,
        REFERENCE | {"segmentation_method": "seggpt", "segmentation_features": "dino"},
        ["--segmentation_features is not read by SegGPT"],
    ),
    "SegGPT for another method": (
        None,
        REFERENCE | {"segmentation_seggpt": "seggpt"},
        ["--segmentation_seggpt is read by SegGPT only"],
    ),
    "no reference image": (None, REFERENCE | {"reference_image": "nowhere.png"}, ["no photo at nowhere.png"]),
    "no SAM": (save_clip_config, REFERENCE | {"sam": "clip"}, ["clip is not a SAM", '"clip"']),
    "SAM with code in it": (
        lambda: Path("sam.pth").write_bytes(pickle.dumps({"image_encoder.pos_embed": RunsCode()})),
        REFERENCE | {"sam": "sam.pth"},
        ["sam.pth holds more than tensors"],
    ),
    "unknown key": (
        lambda: write_config("learning_rat: 1"),
        {"config": "config.yaml"},
        ["did you mean learning_rate"],
    ),
    "no prompt": (None, {"instance_prompt": None}, ["--instance_prompt is missing"]),
    "no class prompt": (
        None,
        {"with_prior_preservation": True, "class_data_dir": "class"},
        ["--with_prior_preservation needs --class_prompt"],
    ),
    "no class folder": (None, {"with_prior_preservation": True, "class_prompt": "a dog"}, ["needs --class_data_dir"]),
    "no base model": (None, {"pretrained_model_name_or_path": "nowhere"}, ["no base model at 'nowhere'"]),
    "another kind of model": (
        save_video_pipeline,
        {"pretrained_model_name_or_path": "video"},
        ["VideoPipeline", "known:"],
    ),
    "another prediction": (
        save_sample_predictor,
        {"pretrained_model_name_or_path": "sampler"},
        ["predicts sample", "epsilon and v_prediction"],
    ),
    "resolution": (None, {"resolution": 33}, ["--resolution 33 is not a multiple of 2", "take 32"]),
    "scheduler": (None, {"lr_scheduler": "cosin"}, ["--lr_scheduler cosin is unknown", "cosine"]),
    "scheduler without rules": (None, {"lr_scheduler": "piecewise_constant"}, ["piecewise_constant is unknown"]),
    "scheduler without a way": (
        None,
        {"lr_scheduler": "polynomial", "learning_rate": 0},
        ["--lr_scheduler polynomial ends at 1e-07", "--learning_rate 0 must be higher"],
    ),
    "caption extension": (None, {"caption_extension": "."}, ["--caption_extension . must be a dot and letters"]),
    "cache that is a file": (
        lambda: Path("cache").touch(),
        {"cache_latents": True, "training_cache": "cache"},
        ["cache is a file"],
    ),
    "photos for class images": (
        None,
        {"with_prior_preservation": True, "class_data_dir": "photos", "class_prompt": "a dog"},
        ["--class_data_dir photos holds a subject's photos or masks"],
    ),
    "masks for class images": (
        None,
        {"with_prior_preservation": True, "class_data_dir": "masks", "class_prompt": "a dog"},
        ["--class_data_dir masks holds a subject's photos or masks"],
    ),
    "prompt that is no UTF-8": (None, {"class_prompt": "a d\udcf6g"}, ["--class_prompt 'a d\\udcf6g' is not UTF-8"]),
    "output that is no UTF-8": (None, {"output_dir": "mod\udce8le"}, ["--output_dir 'mod\\udce8le' is not UTF-8"]),
    "tracker that is not installed": (
        None,
        {"report_to": "comet_ml"},
        ["--report_to comet_ml: comet_ml is not installed", "pip install comet_ml", "none"],
    ),
    "validation pictures of a size that the pipeline refuses": (
        None,
        {"resolution": 36, "validation_prompt": "a sks dog"},
        ["--resolution 36", "multiples of 8", "take 32"],
    ),
    "tracker": (None, {"report_to": "paper"}, ["--report_to paper is unknown", "tensorboard"]),
    "number": (None, {"max_train_steps": "many"}, ["--max_train_steps", "many"]),
    "choice": (None, {"mask_downsample": "mean"}, ["--mask_downsample", "area"]),
    "range": (None, {"background_weight": 1.5}, ["--background_weight 1.5 must lie in [0, 1]"]),
    "no checkpoint": (
        None,
        {"resume_from_checkpoint": "checkpoint-7"},
        ["no such checkpoint in output"],
    ),
    "8-bit Adam": (None, {"use_8bit_adam": True}, ["pip install bitsandbytes"]),
    "xformers": (None, {"enable_xformers_memory_efficient_attention": True}, ["pip install xformers"]),
    "text encoder twice": (
        None,
        {"train_text_encoder": True, "pre_compute_text_embeddings": True},
        ["--train_text_encoder and --pre_compute_text_embeddings exclude each other"],
    ),
    "masks for plain DreamBooth": (None, {"masked_loss": False}, ["drop --instance_mask_dir"]),
    "background prior without class prompt": (
        None,
        {"background_prior_weight": 1.0},
        ["--background_prior_weight 1 needs --class_prompt", '"a dog"', "leave the weight at 0"],
    ),
    "background prior without masks": (
        None,
        {"background_prior_weight": 0.5, "class_prompt": "a dog", "masked_loss": False, "instance_mask_dir": None},
        ["--background_prior_weight 0.5 needs masks", "drop --no_masked_loss"],
    ),
    "photos for masks": (None, {"instance_mask_dir": "photos"}, ["are the photos themselves"]),
    "two masks of one name": (lambda: blank("masks/a.bmp"), {}, ["a.bmp and a.png"]),
    "rank without LoRA": (None, {"rank": 8}, ["--rank", "add --use_lora"]),
    "fp16 on a CPU": (None, {"mixed_precision": "fp16"}, ["fp16 needs a GPU"]),
    "base model damaged": (save_damaged_base, {"pretrained_model_name_or_path": "base"}, ["the unet of base cannot"]),
    "base model with holes": (
        save_incomplete_base,
        {"pretrained_model_name_or_path": "base"},
        ["text_encoder", "lacks"],
    ),
    "damaged class image": (
        lambda: (Path("class").mkdir(), Path("class/x.png").write_bytes(b"x")),
        {"with_prior_preservation": True, "class_data_dir": "class", "class_prompt": "a dog", "num_class_images": 1},
        ["x.png cannot be decoded"],
    ),
    **{f"{name} {value}": (None, {name: value}, [f"--{name} {value} must"]) for name, value in OUTSIDE},
    "hub": (None, {"push_to_hub": True, "hub_token": "hf_secret"}, ["--push_to_hub", "hf auth login"]),
}


@pytest.mark.parametrize("name", CASES)
def test_user_error_is_one_line_and_writes_nothing(name, flags, capsys):
    before, changes, words = CASES[name]
    if before:
        before()
    assert main(["train", *as_words(flags | changes)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1 and lines[0].startswith("persam-dreambooth train: error: ")
    assert all(word in lines[0] for word in words), lines[0]
    assert "hf_secret" not in lines[0]
    assert not Path("output").exists() and not Path("it-ran").exists()


def test_output_folder_with_other_files_is_refused_and_kept(flags, capsys):
    Path("output").mkdir()
    Path("output/precious.txt").write_text("mine")
    assert main(["train", *as_words(flags)]) == 2
    assert "output holds other files (precious.txt); choose a new or an empty folder" in capsys.readouterr().err
    assert [path.name for path in Path("output").iterdir()] == ["precious.txt"]


def test_photo_names_need_not_be_utf8(flags):
    Path("photos").rename("ph\udcf6tos")
    for folder in ("ph\udcf6tos", "masks"):
        Path(folder, "a.png").rename(Path(folder, "\udce9.png"))
    Path("ph\udcf6tos/\udce9.txt").write_text("a sks dog")
    changes = {"instance_data_dir": "ph\udcf6tos", "caption_extension": ".txt"}
    assert main(["train", "--use_lora", *as_words(flags | changes)]) == 0
    assert Path("output/README.md").exists()


def test_mismatched_or_damaged_checkpoint_is_refused(flags, capsys):
    lora = ["--use_lora", "--rank", "2", "--checkpointing_steps", "1"]
    assert main(["train", *as_words(flags), *lora]) == 0
    go_on = ["--max_train_steps", "2", "--resume_from_checkpoint", "latest"]
    assert main(["train", *as_words(flags), *go_on, "--use_lora", "--rank", "4"]) == 2
    assert "the run had rank 2, not 4" in capsys.readouterr().err
    saved = Path("output/training_config.yaml").read_text()
    Path("output/training_config.yaml").write_text("{")
    assert main(["train", *as_words(flags), *go_on, "--use_lora", "--rank", "2"]) == 2
    assert "training_config.yaml is damaged" in capsys.readouterr().err
    Path("output/training_config.yaml").write_text(saved)
    Path("output/checkpoint-1/optimizer.bin").write_bytes(b"garbage")
    assert main(["train", *as_words(flags), *go_on, "--use_lora", "--rank", "2"]) == 2
    printed = capsys.readouterr()
    assert "cannot resume from output/checkpoint-1" in printed.err
    assert "flags changed since output/checkpoint-1: --max_train_steps 2 (was 1), --checkpointing_steps" in printed.out


def test_nan_loss_stops_run_and_keeps_checkpoints(flags, capsys):
    wild = [
        "--learning_rate",
        "1e30",
        "--lr_warmup_steps",
        "0",
        "--max_train_steps",
        "9",
        "--checkpointing_steps",
        "1",
    ]
    assert main(["train", *as_words(flags), *wild]) == 2
    assert "lower --learning_rate" in capsys.readouterr().err
    assert Path("output/checkpoint-1/progress.json").exists() and not Path("output/model_index.json").exists()
