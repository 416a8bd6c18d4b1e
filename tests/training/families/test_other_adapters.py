"""LoHa, LoKr and OFT: trained inside the mask only, saved as peft reads them, generated with and resumed from."""

from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file

from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.models import digest_of
from persam_dreambooth.generation import load_pipeline
from persam_dreambooth.model_folder import adapter_folders, weights_digest
from persam_dreambooth.model_source import ModelSource
from persam_dreambooth.training.config import TrainingConfig
from tests.training.runs import same_weights, train
from tests.training.small import batch_for, make, noised_for, prediction_of, trained_parameters
from tests.training.test_objective import gradient

KINDS = ("loha", "lokr", "oft")
NAMES = ("stable-diffusion", "sdxl", "sd3", "flux")
every_kind = pytest.mark.parametrize("kind", KINDS)


def adapted(base, kind, **model):
    """Build a family whose adapters of this kind change its prediction."""
    torch.manual_seed(0)
    config, family = make(base, {"use_lora": True, "adapter_type": kind, "rank": 2} | model)
    for weight in trained_parameters(family):
        weight.data += 0.1 * torch.randn_like(weight)
    for part in family.trained().values():
        part.eval()
    return config, family


@every_kind
@pytest.mark.parametrize("name", NAMES)
def test_saved_adapters_predict_like_trained_ones(pipelines, tmp_path, kind, name):
    config, family = adapted(pipelines / name, kind)
    batch, noised = batch_for(family, class_images=False), noised_for(family, config)
    trained, from_base = prediction_of(family, noised, batch), family.predict_base(noised, batch.prompt)
    assert (trained - from_base).abs().max() > 1e-3
    _, plain = make(pipelines / name)
    torch.testing.assert_close(prediction_of(plain, noised, batch), from_base)
    family.save(tmp_path)

    part = family.denoiser[0]
    files = {path.name for path in (tmp_path / part).iterdir()}
    assert files >= {"adapter_config.json", "adapter_model.safetensors"}
    wrapped = PeftModel.from_pretrained(getattr(plain, part), tmp_path, subfolder=part)
    assert wrapped.peft_config["default"].peft_type.value == kind.upper()
    plain.replace({part: wrapped.base_model.model.eval()})
    torch.testing.assert_close(prediction_of(plain, noised, batch), trained, rtol=1e-4, atol=1e-5)

    _, other = make(pipelines / name, {"use_lora": True, "adapter_type": kind, "rank": 2})
    other.load_weights(tmp_path)
    pairs = zip(trained_parameters(family), trained_parameters(other), strict=True)
    assert all(torch.equal(one, same) for one, same in pairs)

    pipeline = load_pipeline(tmp_path, base_model=pipelines / name, device="cpu")
    plain.replace({part: getattr(pipeline, part)})
    torch.testing.assert_close(prediction_of(plain, noised, batch), trained, rtol=1e-4, atol=1e-5)


@every_kind
@pytest.mark.parametrize("name", NAMES)
def test_background_has_no_gradient(pipelines, kind, name):
    config, family = adapted(pipelines / name, kind)
    batch = batch_for(family, class_images=False)
    grad = gradient(family, config, batch)
    touched = torch.nn.functional.max_pool2d(batch.mask, family.cell_of(config.model)) > 0
    outside = ~touched.expand_as(grad)
    assert (grad[outside] == 0.0).all() and (grad[~outside] != 0.0).any()
    learned = [weight.grad is not None and bool((weight.grad != 0).any()) for weight in trained_parameters(family)]
    assert sum(learned) > 0.7 * len(learned)


@every_kind
def test_resumed_run_ends_like_an_uninterrupted_one(flags, kind):
    ours = ("--use_lora", f"--adapter_type={kind}", "--train_text_encoder", "--center_crop")
    settings = {"rank": 2, "checkpointing_steps": 2}
    assert train(flags, *ours, **settings, output_dir="whole") == 0
    assert train(flags, *ours, **settings | {"max_train_steps": 2}) == 0
    assert train(flags, *ours, **settings, resume_from_checkpoint="latest") == 0
    for part in ("unet", "text_encoder"):
        name = f"{part}/adapter_model.safetensors"
        assert same_weights(f"whole/{name}", f"output/{name}")
        begun = load_file(Path("whole/checkpoint-2") / name)
        assert any(not torch.equal(value, begun[key]) for key, value in load_file(f"whole/{name}").items())
        config = f"{part}/adapter_config.json"
        assert Path("whole", config).read_bytes() == Path("output", config).read_bytes()


def test_every_part_of_the_program_knows_them(flags, capsys):
    short = {"max_train_steps": 1, "rank": 2, "validation_prompt": "a sks dog", "num_validation_images": 1}
    assert train(flags, "--use_lora", "--adapter_type=lokr", "--no_upcast_before_saving", **short) == 0
    assert "LoKr rank 2 of stable-diffusion's unet" in capsys.readouterr().out
    (folder,) = adapter_folders(Path("output"))
    assert folder == Path("output/unet") and weights_digest(Path("output"))
    assert ModelSource("output").is_lora and digest_of(ModelSource("output"))
    card = Path("output/README.md").read_text()
    assert (
        "LoKr adapters of" in card
        and "PeftModel.from_pretrained(pipeline.unet, 'this folder', subfolder='unet'" in card
    )
    assert not Path("output/pytorch_lora_weights.safetensors").exists()
    assert yaml.safe_load(Path("output/training_config.yaml").read_text())["adapter_type"] == "lokr"
    drawing = ["--prompt", "a sks dog", "--num_images", "1", "--num_inference_steps", "1", "--device", "cpu"]
    small = ["--height", "32", "--width", "32", "--output", "drawn"]
    assert main(["generate", "--model", "output", *drawing, *small]) == 0
    again = {"resume_from_checkpoint": "latest"}
    assert train(flags, "--use_lora", "--adapter_type=lokr", **short, **again) == 2
    assert "holds a finished model and no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"adapter_type": "loha"}, "--adapter_type loha needs --use_lora"),
        ({"adapter_type": "loha", "use_dora": True}, "--use_dora has no use with --adapter_type loha"),
        ({"adapter_type": "lokr", "lora_dropout": 0.1}, "--lora_dropout has no use with --adapter_type lokr"),
        ({"adapter_type": "oft", "lora_alpha": 4}, "--lora_alpha has no use with --adapter_type oft"),
        ({"adapter_type": "oft", "output_kohya_format": True}, "--adapter_type oft exclude each other"),
        ({"adapter_type": "dora"}, "--adapter_type: 'dora' is none of lora, loha, lokr, oft"),
    ],
    ids=str,
)
def test_flags_that_they_do_not_have_are_refused(settings, words):
    given = {"pretrained_model_name_or_path": "base", "instance_data_dir": "dog", "instance_mask_dir": "masks"}
    lora = {"use_lora": len(settings) > 1}
    with pytest.raises(UserError) as error:
        TrainingConfig(**given, instance_prompt="a sks dog", **lora, **settings)
    assert words in str(error.value)


def test_weights_of_other_layers_are_refused(pipelines, tmp_path):
    _, family = adapted(pipelines / "stable-diffusion", "loha", lora_layers="to_q")
    family.save(tmp_path)
    _, other = make(pipelines / "stable-diffusion", {"use_lora": True, "adapter_type": "loha", "rank": 2})
    with pytest.raises(ValueError, match="unet's adapters do not fit"):
        other.load_weights(tmp_path)
