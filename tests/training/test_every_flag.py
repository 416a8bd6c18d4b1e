"""Every flag is named by a test, and those that no other test covers change what they say."""

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

from persam_dreambooth.training import objective
from persam_dreambooth.training.config import SHOWN, DataConfig, OptimizationConfig
from persam_dreambooth.training.data import class_images, dataset_copy
from persam_dreambooth.training.data.concepts import read_concepts
from persam_dreambooth.training.data.samples import FreshSamples
from persam_dreambooth.training.runtime.optimizer import build_optimizer, build_scheduler
from tests.training.runs import train
from tests.training.small import batch_for, configure, make

TESTS = Path(__file__).parents[1]
LORA = "pytorch_lora_weights.safetensors"
on_sd = pytest.mark.parametrize("base", ["epsilon"], indirect=True)


def test_every_flag_is_named_by_a_test():
    """Add a test that fails if the flag does nothing."""
    texts = [path.read_text() for path in TESTS.rglob("*.py")]
    words = Counter(word for text in texts for word in set(re.findall(r"\w+", text)))
    assert not [flag.name for flag in SHOWN if not words[flag.name] and not words[f"no_{flag.name}"]]


def test_settings_of_the_optimizer_and_its_schedule():
    weights = [torch.nn.Parameter(torch.zeros(1))]
    config = OptimizationConfig(
        learning_rate=1.0, adam_beta1=0.5, adam_beta2=0.25, adam_epsilon=0.125, adam_weight_decay=0.75
    )
    (group,) = build_optimizer(weights, config, 1).param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.5, 0.25), 0.125, 0.75)

    def rates(**settings):
        config = OptimizationConfig(learning_rate=1.0, **settings)
        optimizer = build_optimizer(weights, config, 1)
        schedule = build_scheduler(optimizer, config, 8, 1)
        found = []
        for _ in range(8):
            found.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        return found

    restarts = {"lr_scheduler": "cosine_with_restarts", "lr_warmup_steps": 0}
    assert rates(**restarts).count(1.0) == 1 and rates(**restarts, lr_num_cycles=2).count(1.0) == 2
    bent = {"lr_scheduler": "polynomial", "lr_warmup_steps": 0}
    assert rates(**bent)[4] == pytest.approx(0.5) and rates(**bent, lr_power=2)[4] == pytest.approx(0.25)
    assert rates(lr_scheduler="constant_with_warmup", lr_warmup_steps=4)[:3] == [0, 0.25, 0.5]


def test_gradients_are_clipped_and_logs_have_their_folder(flags):
    tight = {"max_grad_norm": 1e-12, "max_train_steps": 1, "adam_weight_decay": 0, "logging_dir": "elsewhere"}
    assert train(flags, "--use_lora", "--no_set_grads_to_none", "--report_to=tensorboard", **tight) == 0
    ups = [weight for name, weight in load_file(Path("output") / LORA).items() if name.endswith("up.weight")]
    assert ups and max(float(weight.abs().max()) for weight in ups) < 1e-5  # not 1e-3, a step of Adam
    assert list(Path("output/elsewhere").rglob("events*")) and not Path("output/logs").exists()


@pytest.mark.parametrize("keep", [True, False])
def test_gradients_are_zeroed_or_dropped(flags, keep, monkeypatch):
    asked = set()
    zero = torch.optim.AdamW.zero_grad
    monkeypatch.setattr(
        torch.optim.AdamW, "zero_grad", lambda own, set_to_none=True: (asked.add(set_to_none), zero(own, set_to_none))
    )
    switch = ["--no_set_grads_to_none"] if keep else []
    assert train(flags, "--use_lora", *switch, max_train_steps=1) == 0 and asked == {not keep}


def test_text_encoder_is_left_out_of_the_pipeline(flags):
    assert train(flags, "--skip_save_text_encoder", max_train_steps=1) == 0
    assert Path("output/unet").is_dir() and not Path("output/text_encoder").exists()


@on_sd
def test_weight_of_class_images_and_dilation_of_masks(base):
    found = []
    for data, mask in ((None, None), ({"prior_loss_weight": 0.25}, None), (None, {"mask_dilation": 4})):
        config, family = make(base, data=data, mask=mask)
        torch.manual_seed(0)
        found.append(objective.training_loss(family, batch_for(family, True), config)[1])
    plain, weighted, dilated = found
    assert weighted["loss"] == pytest.approx(float(plain["instance_loss"] + 0.25 * plain["prior_loss"]), rel=1e-5)
    assert dilated["instance_loss"] != plain["instance_loss"] and dilated["prior_loss"] == plain["prior_loss"]


def test_photos_are_resized_as_asked(flags):
    found = [
        FreshSamples(DataConfig(resolution=32, center_crop=True, image_interpolation_mode=mode))(
            Path("photos/00.png"), (Path("masks/00.png"),), (32, 32)
        )["pixels"]
        for mode in ("nearest", "lanczos")
    ]
    assert not torch.equal(*found)


def test_class_images_are_made_in_batches_and_in_a_precision(flags, monkeypatch):
    kind = class_images.DiffusionPipeline
    read = kind.from_pretrained

    def loaded(*args, **named):
        pipeline = read(*args, **named)
        pipeline.unet.register_forward_pre_hook(stop)
        return pipeline

    def stop(unet, given):
        raise RuntimeError(f"{len(given[0])} in {unet.dtype}")

    monkeypatch.setattr(kind, "from_pretrained", loaded)
    data = {"class_data_dir": "class", "class_prompt": "a dog", "num_class_images": 3, "sample_batch_size": 2}
    data |= {"with_prior_preservation": True, "prior_generation_precision": "bf16"}
    config = configure(flags["pretrained_model_name_or_path"], data=data)
    with pytest.raises(RuntimeError, match=r"4 in torch.bfloat16"):  # two pictures, with and without guidance
        class_images.ensure_class_images(read_concepts(config)[0], config, Accelerator())


def test_configuration_of_a_data_set(flags):
    for name in ("cats", "dogs"):
        folder = Path("set", name)
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 40 if name == "cats" else 48)).save(folder / "00.png")
    head = "configs:\n- config_name: cats\n  data_files: cats/*\n- config_name: dogs\n  data_files: dogs/*\n"
    Path("set/README.md").write_text(f"---\n{head}---\n")
    for name, height in (("cats", 40), ("dogs", 48)):
        data = {"instance_data_dir": None, "dataset_name": "set", "dataset_config_name": name, "cache_dir": "kept"}
        config = configure("model", data=data, output={"output_dir": name})
        dataset_copy.copy(config)
        assert Image.open(f"{name}/dataset/photos/00000.png").height == height and Path("kept").is_dir()
