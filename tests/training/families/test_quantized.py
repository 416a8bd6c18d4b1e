"""A quantized frozen base for LoRA: what is stored, the losses, the gradients, the saved LoRA, and refusals."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from persam_dreambooth.errors import UserError
from persam_dreambooth.training import memory
from persam_dreambooth.training.config import OptimizationConfig
from persam_dreambooth.training.families import load_family, quantized
from persam_dreambooth.training.objective import training_loss
from random_models import PIPELINES
from tests.parity.diffusers_cases import logged_losses
from tests.training.runs import launch, same_weights, train
from tests.training.small import batch_for, configure, prediction_of, tokenized, trained_parameters

STORED = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
ERROR = {"int8": 0.02, "fp8": 0.06}
"""Largest rounding error of a weight, relative to the largest of its row: 1/254 and 1/16 of the number itself."""
LORA = "pytorch_lora_weights.safetensors"
PRIOR = {"class_prompt": "a dog", "background_prior_weight": 1.0}
every_kind = pytest.mark.parametrize("kind", STORED)


def family_of(base, kind, dtype=torch.float32, mask=None, data=None, **model):
    """Return the config and a placed family with random adapters."""
    config = configure(base, {"use_lora": True, "quantize": kind} | model, mask=mask, data=data)
    torch.manual_seed(0)
    family = load_family(config.model, dtype)
    family.place(torch.device("cpu"), dtype)
    for weight in trained_parameters(family):
        weight.data += 0.05 * torch.randn_like(weight)
    return config, family


def linear_layers(family):
    """Return the denoiser's linear layers by name, without the adapters'."""
    denoiser = getattr(family, family.denoiser[0])
    return {
        name: layer
        for name, layer in denoiser.named_modules()
        if isinstance(layer, torch.nn.Linear) and "lora_" not in name
    }


def is_dense(weight, tensor):
    """Return whether a tensor is the float copy of a quantized weight, scaled or not, or its transpose."""
    copies = (weight.dequantize(), weight.qdata.to(tensor.dtype))
    return any(one.shape == tensor.shape and torch.equal(one, tensor) for copy in copies for one in (copy, copy.T))


def gradient_at_prediction(models, **model):
    """Return the loss's gradient at the prediction, and which of its cells the mask touches."""
    config, family = family_of(models / "stable-diffusion", model.pop("quantize", None), **model)
    predictions = []
    predict = family.predict

    def recorded(*arguments):
        predictions.append(predict(*arguments))
        predictions[-1].retain_grad()
        return predictions[-1]

    family.predict = recorded
    batch = batch_for(family, False)
    training_loss(family, batch, config)[0].backward()
    gradient = predictions[0].grad
    return gradient, torch.nn.functional.adaptive_max_pool2d(batch.mask, gradient.shape[-2:]) > 0


class TestRefusals:
    def test_trained_weights_are_not_quantized(self, flags, capsys):
        assert train(flags, quantize="int8") == 2
        assert "--quantize is for a frozen base model; add --use_lora" in capsys.readouterr().err

    def test_only_one_quantization(self, flags, capsys):
        assert train(flags, "--use_lora", quantize="int8", bnb_quantization_config_path="bnb.json") == 2
        assert "exclude each other" in capsys.readouterr().err

    def test_missing_package_is_named(self, flags, capsys, monkeypatch):
        monkeypatch.setattr(quantized, "find_spec", lambda name: None)
        assert train(flags, "--use_lora", quantize="fp8") == 2
        assert "--quantize fp8 needs `pip install torchao`" in capsys.readouterr().err
        Path("bnb.json").write_text('{"load_in_4bit": true}')
        assert train(flags, "--use_lora", bnb_quantization_config_path="bnb.json") == 2
        assert "bnb.json needs `pip install bitsandbytes`" in capsys.readouterr().err
        assert not Path("output").exists()

    def test_bitsandbytes_needs_a_gpu(self, flags, capsys, monkeypatch):
        monkeypatch.setattr(quantized, "find_spec", lambda name: name)
        Path("bnb.json").write_text('{"load_in_8bit": true}')
        assert train(flags, "--use_lora", bnb_quantization_config_path="bnb.json") == 2
        assert "needs a GPU" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("{", "cannot be read as JSON"),
            ("[]", "must be an object"),
            ('{"bnb_4bit_quant_type": "nf4"}', "must be an object"),
            ('{"load_in_4bit": true, "quant_type": "nf4"}', "quant_type is unknown; choose among"),
        ],
    )
    def test_file_is_a_config_of_bitsandbytes(self, flags, capsys, text, said):
        Path("bnb.json").write_text(text)
        assert train(flags, "--use_lora", bnb_quantization_config_path="bnb.json") == 2
        assert said in capsys.readouterr().err

    def test_missing_file(self, flags, capsys):
        assert train(flags, "--use_lora", bnb_quantization_config_path="none.json") == 2
        assert "none.json cannot be read as JSON" in capsys.readouterr().err


def test_bitsandbytes_computes_in_the_precision_of_the_training(models, monkeypatch, tmp_path):
    """As in diffusers' scripts, whose file need not say it."""
    path = tmp_path / "bnb.json"
    path.write_text(json.dumps({"load_in_8bit": True, "llm_int8_threshold": 5.0}))
    config = configure(models, {"use_lora": True, "bnb_quantization_config_path": str(path)})
    given = quantized.settings(config.model, torch.bfloat16)
    assert given["torch_dtype"] == torch.bfloat16
    assert given["quantization_config"].load_in_8bit and given["quantization_config"].llm_int8_threshold == 5.0


class TestWithTorchao:
    @pytest.fixture(autouse=True)
    def needs_torchao(self):
        pytest.importorskip("torchao")

    @every_kind
    @pytest.mark.parametrize("name", PIPELINES)
    def test_frozen_linear_weights_are_stored_in_8_bits(self, pipelines, name, kind):
        config, family = family_of(pipelines / name, kind, torch.bfloat16)
        config_of_plain, plain = family_of(pipelines / name, None, torch.bfloat16)
        layers, weights = linear_layers(family), linear_layers(plain)
        assert layers.keys() == weights.keys() and len(layers) > 3
        packed = 0
        for key, layer in layers.items():
            if not quantized.is_traceable_wrapper_subclass(layer.weight):
                continue  # a layer that diffusers keeps in float32
            packed += 1
            assert layer.weight.qdata.dtype == STORED[kind] and not layer.weight.requires_grad
            dense, row = weights[key].weight.float(), weights[key].weight.float().abs().amax(1, keepdim=True)
            assert ((layer.weight.dequantize().float() - dense).abs() <= ERROR[kind] * row).all()
        assert packed > 0.8 * len(layers)
        assert {weight.dtype for weight in trained_parameters(family)} == {torch.float32}
        assert len(trained_parameters(family)) == len(trained_parameters(plain))
        saved = sum(layer.weight.numel() - 4 * len(layer.weight) for layer in layers.values())  # a scale a row
        less = next(iter(memory.terms(plain, config_of_plain).values())) - next(
            iter(memory.terms(family, config).values())
        )
        assert less == pytest.approx(saved, rel=0.15)

    @every_kind
    def test_graph_holds_no_dense_weight(self, models, kind):
        """Torchao's own layers keep a dense copy of each weight until the backward pass."""
        kept = {}
        for kind_of_layer in (quantized.PackedLinear, torch.nn.Linear):
            config, family = family_of(models / "stable-diffusion", kind)
            packed = list(linear_layers(family).values())
            for layer in packed:
                layer.__class__ = kind_of_layer
            saved = []

            def keep(tensor, saved=saved):
                saved.append(tensor.detach())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss, _ = training_loss(family, batch_for(family, False), config)
            loss.backward()
            kept[kind_of_layer] = sum(any(is_dense(layer.weight, tensor) for tensor in saved) for layer in packed)
        assert kept[quantized.PackedLinear] == 0
        assert kept[torch.nn.Linear] > len(packed) / 2  # not in layers without a trained one below them

    @every_kind
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_gradients_are_those_of_the_dequantized_model(self, models, kind, dtype):
        gradients = []
        for dense in (False, True):
            config, family = family_of(models / "stable-diffusion", kind, dtype)
            if dense:
                for layer in linear_layers(family).values():
                    layer.weight = torch.nn.Parameter(layer.weight.dequantize(), requires_grad=False)
                    layer.__class__ = torch.nn.Linear
            batch = batch_for(family, False)
            torch.manual_seed(1)
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss, _ = training_loss(family, batch, config)
            loss.backward()
            gradients.append(torch.cat([weight.grad.flatten() for weight in trained_parameters(family)]))
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        assert (gradients[0] - gradients[1]).norm() < tolerance * gradients[1].norm()

    @every_kind
    def test_losses_stay_close_and_base_is_not_trained(self, flags, kind):
        assert train(flags, "--use_lora", **PRIOR, output_dir="plain") == 0
        assert train(flags, "--use_lora", **PRIOR, quantize=kind, output_dir="packed") == 0
        plain, packed = logged_losses(Path("plain")), logged_losses(Path("packed"))
        assert packed == pytest.approx(plain, rel=0.02) and packed != plain

    @every_kind
    def test_saved_lora_fits_the_unquantized_pipeline(self, models, tmp_path, kind):
        _, family = family_of(models / "stable-diffusion", kind)
        family.unet.eval()
        batch = batch_for(family, class_images=False)
        noised = family.add_noise(torch.randn(2, 4, 16, 16), OptimizationConfig())
        trained, from_base = prediction_of(family, noised, batch), family.predict_base(noised, batch.prompt)
        family.save(tmp_path)
        assert {value.dtype for value in load_file(tmp_path / LORA).values()} == {torch.float32}
        pipeline = StableDiffusionPipeline.from_pretrained(models / "stable-diffusion")
        pipeline.load_lora_weights(tmp_path, weight_name=LORA)
        with torch.no_grad():
            embeds = pipeline.text_encoder(batch.prompt["input_ids"])[0]
            loaded = pipeline.unet(noised.noisy, noised.timesteps, embeds).sample
            pipeline.disable_lora()
            base = pipeline.unet(noised.noisy, noised.timesteps, embeds).sample
        learned = trained - from_base
        assert ((loaded - base) - learned).norm() < 0.1 * learned.norm()

    @every_kind
    def test_background_prior_uses_the_same_quantized_base(self, models, kind):
        """With fresh adapters, which change nothing, prediction and base agree; and nothing is copied."""
        base, on = models / "stable-diffusion", {"background_prior_weight": 1.0}
        config = configure(base, {"use_lora": True, "quantize": kind}, mask=on, data={"class_prompt": "a sks dog"})
        family = load_family(config.model)
        family.keep_base()
        family.place(torch.device("cpu"), torch.float32)
        batch = batch_for(family, False)._replace(class_prompt=tokenized(family, ["a sks dog"] * 2))
        _, terms = training_loss(family, batch, config)
        assert terms["background_prior_loss"] == 0 and not family.base

    @every_kind
    def test_gradient_outside_the_mask_is_exactly_zero(self, models, kind):
        gradient, inside = gradient_at_prediction(models, quantize=kind)
        assert (gradient * ~inside == 0).all() and (gradient * inside).abs().sum() > 0

    @pytest.mark.parametrize("switches", [(), ("--gradient_checkpointing",), ("--use_dora",)])
    def test_resume_equals_uninterrupted(self, flags, switches):
        flags |= {"quantize": "int8", "checkpointing_steps": 2} | PRIOR
        assert train(flags, "--use_lora", *switches, output_dir="whole") == 0
        assert train(flags, "--use_lora", *switches, output_dir="parts", max_train_steps=2) == 0
        again = {"output_dir": "parts", "resume_from_checkpoint": "latest"}
        assert train(flags, "--use_lora", *switches, **again) == 0
        assert same_weights(f"whole/{LORA}", f"parts/{LORA}")

    def test_bf16_and_validation(self, flags):
        low = {"mixed_precision": "bf16", "validation_prompt": "a sks dog", "num_validation_images": 1}
        assert train(flags, "--use_lora", **low, quantize="fp8", max_train_steps=2) == 0
        assert len(list(Path("output/validation").glob("*.png"))) == 1
        AcceleratorState._reset_state(reset_partial_state=True)
        assert {value.dtype for value in load_file(f"output/{LORA}").values()} == {torch.float32}

    def test_two_processes(self, flags):
        one = flags | {"quantize": "int8", "max_train_steps": 2, "gradient_accumulation_steps": 2}
        switches = ("--use_lora", "--seed_each_batch")
        assert train(one | {"train_batch_size": 1, "output_dir": "one"}, *switches) == 0
        launch(2, one | {"train_batch_size": 1, "gradient_accumulation_steps": 1}, *switches)
        alone, both = load_file(f"one/{LORA}"), load_file(f"output/{LORA}")
        assert all(torch.allclose(alone[key], both[key], atol=1e-5) for key in alone)


LAYERWISE = {"layerwise_upcasting_storage_dtype": "float8_e4m3fn"}
FAMILIES_WITH_LINEAR_LAYERS = ("stable-diffusion", "sdxl", "flux", "z-image")


class TestLayerwiseUpcasting:
    """Frozen linear layers are stored in 8 bits by diffusers' own hooks, and cast up while they compute."""

    @pytest.mark.parametrize(
        ("switches", "more", "said"),
        [
            ((), {}, "--layerwise_upcasting_storage_dtype is for a frozen base model; add --use_lora"),
            (("--use_lora",), {}, "saves nothing without --gradient_checkpointing"),
            (("--use_lora", "--gradient_checkpointing", "--use_dora"), {}, "and --use_dora exclude each other"),
            (
                ("--use_lora", "--gradient_checkpointing", "--torch_compile"),
                {},
                "and --torch_compile exclude each other",
            ),
            (("--use_lora",), {"quantize": "int8"}, "--quantize and --layerwise_upcasting_storage_dtype exclude"),
            (("--use_lora",), {"adapter_type": "loha"}, "and --adapter_type loha exclude each other"),
        ],
    )
    def test_refusals(self, flags, capsys, switches, more, said):
        assert train(flags, *switches, **LAYERWISE, **more) == 2
        assert said in capsys.readouterr().err and not Path("output").exists()

    @pytest.mark.parametrize("name", FAMILIES_WITH_LINEAR_LAYERS)
    def test_only_frozen_linear_weights_are_cast(self, pipelines, name):
        """Weights that a step casts up are in 8 bits again afterwards, also after the recomputed forward pass."""
        low, on = torch.bfloat16, {"gradient_checkpointing": True}
        config, family = family_of(pipelines / name, None, low, **on, **LAYERWISE)
        config_of_plain, plain = family_of(pipelines / name, None, low, **on)
        losses = []
        for own in (family, plain):
            getattr(own, own.denoiser[0]).train()
            torch.manual_seed(1)
            with torch.autocast("cpu", low):
                loss, _ = training_loss(own, batch_for(own, False), config)
            loss.backward()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=0.15) and losses[0] != losses[1]
        layers, weights = linear_layers(family), linear_layers(plain)
        cast = {key for key, layer in layers.items() if layer.weight.dtype == torch.float8_e4m3fn}
        assert len(cast) > 0.6 * len(layers)
        assert all(torch.equal(layers[key].weight, weights[key].weight.to(torch.float8_e4m3fn)) for key in cast)
        denoiser = getattr(family, family.denoiser[0])
        for key, weight in denoiser.named_parameters():
            assert weight.requires_grad == ("lora_" in key) and (weight.grad is not None) == weight.requires_grad
            assert (weight.dtype == torch.float32) == weight.requires_grad
        one, other = (
            next(iter(memory.terms(own, given).values()))
            for own, given in ((family, config), (plain, config_of_plain))
        )
        assert other - one == sum(
            layers[key].weight.numel() + (layers[key].bias is not None) * len(layers[key].weight) for key in cast
        )

    def test_gradients_are_those_of_the_rounded_model(self, models):
        gradients = []
        for layerwise in (LAYERWISE, {}):
            config, family = family_of(models / "stable-diffusion", None, gradient_checkpointing=True, **layerwise)
            family.unet.train()
            if layerwise:
                rounded = {key: layer.state_dict() for key, layer in linear_layers(family).items()}
            else:
                for key, layer in linear_layers(family).items():
                    layer.load_state_dict({name: value.float() for name, value in rounded[key].items()})
            torch.manual_seed(1)
            training_loss(family, batch_for(family, False), config)[0].backward()
            gradients.append(torch.cat([weight.grad.flatten() for weight in trained_parameters(family)]))
        assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[1].norm()

    def test_gradient_outside_the_mask_is_exactly_zero(self, models):
        gradient, inside = gradient_at_prediction(models, gradient_checkpointing=True, **LAYERWISE)
        assert (gradient * ~inside == 0).all() and (gradient * inside).abs().sum() > 0

    def test_background_prior_validation_and_resuming(self, flags):
        flags |= LAYERWISE | PRIOR | {"checkpointing_steps": 2, "mixed_precision": "bf16"}
        switches = ("--use_lora", "--gradient_checkpointing")
        pictures = {"validation_prompt": "a sks dog", "num_validation_images": 1}
        assert train(flags, *switches, **pictures, output_dir="whole") == 0
        assert train(flags, *switches, output_dir="parts", max_train_steps=2) == 0
        assert train(flags, *switches, output_dir="parts", resume_from_checkpoint="latest") == 0
        assert same_weights(f"whole/{LORA}", f"parts/{LORA}")
        assert {value.dtype for value in load_file(f"whole/{LORA}").values()} == {torch.float32}
        assert len(list(Path("whole/validation").glob("*.png"))) == 1


def emulate(model):
    """Make torchao's layers compute the products of 8-bit floats in higher precision, which any device can."""
    for layer in model.modules():
        if hasattr(layer, "linear_mm_config"):
            layer.linear_mm_config = type(layer.linear_mm_config)(
                *(product._replace(emulate=True) for product in layer.linear_mm_config)
            )


class TestProductsOf8Bits:
    """`--do_fp8_training`; torchao emulates on a CPU what such GPUs compute."""

    def test_refusals(self, flags, capsys, monkeypatch):
        assert train(flags, "--use_lora", "--do_fp8_training", quantize="fp8") == 2
        assert "--do_fp8_training and --quantize exclude each other" in capsys.readouterr().err
        pytest.importorskip("torchao")
        assert train(flags, "--do_fp8_training") == 2
        assert "needs a GPU that multiplies 8-bit floats (compute capability 8.9" in capsys.readouterr().err
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
        config = configure(flags["pretrained_model_name_or_path"], {"do_fp8_training": True})
        with pytest.raises(UserError, match="which this cuda is not"):
            quantized.check(config.model, torch.device("cuda"))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
        quantized.check(config.model, torch.device("cuda"))
        monkeypatch.setattr(quantized, "find_spec", lambda name: None)
        with pytest.raises(UserError, match="--do_fp8_training needs `pip install torchao`"):
            quantized.check(config.model, torch.device("cuda"))

    @pytest.mark.parametrize("lora", [True, False])
    def test_layers_and_loss(self, pipelines, lora):
        float8 = pytest.importorskip("torchao.float8.float8_linear")
        base, losses = pipelines / "flux", []
        for on in (True, False):
            config = configure(base, {"use_lora": lora, "do_fp8_training": on})
            torch.manual_seed(0)
            family = load_family(config.model)
            layers = linear_layers(family)
            fast = {key for key, layer in layers.items() if isinstance(layer, float8.Float8Linear)}
            fitting = {key for key, layer in layers.items() if layer.in_features % 16 == layer.out_features % 16 == 0}
            assert fast == ({key for key in fitting if key != "proj_out"} if on else set())
            if on:
                assert len(fast) > 10
                emulate(family.transformer)
            torch.manual_seed(1)
            loss, _ = training_loss(family, batch_for(family, False), config)
            loss.backward()
            losses.append(loss.item())
            trained = trained_parameters(family)
            assert all(weight.dtype == torch.float32 and weight.grad is not None for weight in trained)
            assert lora == (len(trained) < len(list(family.transformer.parameters())))
        assert losses[0] == pytest.approx(losses[1], rel=0.1) and losses[0] != losses[1]
