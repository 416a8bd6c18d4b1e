"""Base models: code in their folder is neither run nor prompted for, and invalid ones are named."""

import builtins
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.features import Clip
from persam_dreambooth.generation import load_pipeline
from persam_dreambooth.model_folder import LORA_NAME
from persam_dreambooth.segmentation import PerSAM
from persam_dreambooth.segmentation.appearance import ImageEncoder
from persam_dreambooth.training.objective import training_loss
from random_models import random_stable_diffusion
from tests.training.runs import train
from tests.training.small import batch_for, make

CODE = "from pathlib import Path\nPath('it-ran').touch()\nclass Own:\n    pass\n"


@pytest.fixture
def prompts(monkeypatch):
    """Answer every prompt with yes; return the prompts."""
    prompts = []
    monkeypatch.setattr(builtins, "input", lambda question="": prompts.append(question) or "y")
    return prompts


def with_code(folder):
    """Make every config of a folder refer to code next to it."""
    for path in [*folder.rglob("*config.json"), *folder.rglob("scheduler_config.json")]:
        (path.parent / "own.py").write_text(CODE)
        names = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoImageProcessor")
        settings = json.loads(path.read_text())
        auto = dict.fromkeys(names, "own.Own") | {"AutoTokenizer": ["own.Own", "own.Own"]}
        settings |= {"auto_map": auto}
        if path.name == "tokenizer_config.json":
            settings["tokenizer_class"] = "OwnTokenizer"
        path.write_text(json.dumps(settings))


def test_code_of_base_is_never_run(flags, prompts, capsys):
    random_stable_diffusion().save_pretrained("base")
    with_code(Path("base"))
    code = train(flags | {"pretrained_model_name_or_path": "base"}, "--use_lora", max_train_steps=1)
    assert code in (0, 2) and not prompts and not Path("it-ran").exists()
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == (1 if code else 0)


def test_code_of_other_models_is_never_run(models, tmp_path, monkeypatch, prompts):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(models / "sam", "sam")
    shutil.copytree(models / "stable-diffusion", "base")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = small | {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=small | {"vocab_size": 99}, vision_config=vision)).save_pretrained("clip")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained("clip")
    shutil.copytree("base/tokenizer", "clip", dirs_exist_ok=True)
    loads = {
        "sam": [PerSAM.from_pretrained],
        "clip": [ImageEncoder.from_pretrained, Clip.from_pretrained],
        "base": [load_pipeline],
    }
    for name, loaders in loads.items():
        with_code(Path(name))
        for load in loaders:
            try:
                load(name)
            except UserError as error:
                assert "\n" not in str(error)
            assert not prompts and not Path("it-ran").exists()


def single_file():
    save_file({"x": torch.zeros(1)}, "base.safetensors")
    return "base.safetensors"


def photo():
    Image.new("RGB", (8, 8)).save("base.png")
    return "base.png"


def lora():
    Path("lora").mkdir()
    save_file({"x": torch.zeros(1)}, "lora/pytorch_lora_weights.safetensors")
    return "lora"


def empty():
    Path("empty").mkdir()
    return "empty"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (single_file, "base.safetensors holds unknown weights, such as x"),
        (photo, "base.png is a file"),
        (lora, "lora holds LoRA weights and no base model"),
        (empty, "the folder empty holds no model_index.json"),
        (None, "is a model of type 'sam', not a diffusers pipeline"),
    ],
)
def test_invalid_base_is_named(flags, models, given, words, capsys):
    name = given() if given else models / "sam"
    assert train(flags | {"pretrained_model_name_or_path": name}) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert words in line and not Path("output").exists()


def test_unreachable_hub_is_reported_without_retries(flags, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert train(flags | {"pretrained_model_name_or_path": "stable-diffusion-v1-5/stable-diffusion-v1-5"}) == 2
    printed = capsys.readouterr().err
    assert "nothing is cached under that name, and the hub cannot be reached" in printed and "such as" not in printed


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_with_zero_terminal_snr(tmp_path, monkeypatch, prediction):
    pipeline = random_stable_diffusion(prediction_type=prediction)
    pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config, rescale_betas_zero_snr=True)
    pipeline.save_pretrained(tmp_path)
    config, family = make(tmp_path, {"use_lora": True}, optimization={"snr_gamma": 5.0})
    assert float(family.snr(torch.tensor([999]))) == 0.0
    batch = batch_for(family, class_images=False)
    monkeypatch.setattr(torch, "randint", lambda low, high, size, **more: torch.full(size, high - 1))
    loss, _ = training_loss(family, batch, config)
    loss.backward()
    assert torch.isfinite(loss)
    assert (loss.item() > 0) == (prediction == "epsilon")


def test_validation_pictures_equal_generate(flags):
    """Validation runs without dropout, so the picture equals that of adapters without dropout."""
    drawn = {"validation_prompt": "a sks dog", "num_validation_images": 1, "max_train_steps": 2, "report_to": "none"}
    assert train(flags | drawn, "--use_lora", lora_dropout=0.5, validation_steps=1) == 0
    again = drawn | {"network_weights": "output", "learning_rate": 0.0, "output_dir": "again", "max_train_steps": 1}
    assert Path("output", LORA_NAME).exists() and train(flags | again, "--use_lora") == 0
    with_dropout, without = (
        Image.open(path) for path in ("output/validation/step-000002-0.png", "again/validation/step-000001-0.png")
    )
    assert with_dropout.tobytes() == without.tobytes()
