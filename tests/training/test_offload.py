"""`--offload`: frozen parts that encode wait on the CPU, and are on the accelerator only while they encode.

There is no accelerator here: `FakeTensorMode` runs the real code with tensors that have a device but no contents, and
raises if an operation takes tensors of two devices.
"""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from persam_dreambooth.training.families import load_family
from random_models import PIPELINES
from tests.training.runs import same_weights, train
from tests.training.small import SIDE, configure

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
LORA = "pytorch_lora_weights.safetensors"


@pytest.fixture
def fake():
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # Its memo holds weak references, with which `Module.to` cannot exchange parameters.
    mode.fake_tensor_converter.set_tensor_memo = lambda key, value: None
    return mode


def without_contents(module, mode):
    """Replace a module's weights by fake ones."""
    for layer in module.modules():
        for name, weight in layer._parameters.items():
            if weight is not None:
                with mode:
                    empty = torch.empty(weight.shape, dtype=weight.dtype)
                layer._parameters[name] = torch.nn.Parameter(empty, weight.requires_grad)
        for name, buffer in layer._buffers.items():
            with mode:
                layer._buffers[name] = None if buffer is None else torch.empty(buffer.shape, dtype=buffer.dtype)


def placed(base, mode, **model):
    """Return a family on the fake accelerator, and the devices at which its parts run."""
    family = load_family(configure(base, model).model)
    seen = {}
    for name in ("vae", *family.encoders, family.denoiser[0]):
        part = getattr(family, name)
        if part is not None:
            without_contents(part, mode)
            for layer in part.modules():
                layer.register_forward_pre_hook(
                    lambda layer, _, name=name: seen.setdefault(name, set()).update(devices(layer))
                )
    with mode:
        family.place(GPU, torch.float32)
    return family, seen


def devices(module):
    return {weight.device for weight in module.parameters()}


@pytest.mark.parametrize(("name", "offload"), [("stable-diffusion", False), *((name, True) for name in PIPELINES)])
def test_parts_are_on_the_accelerator_only_while_they_encode(pipelines, fake, name, offload):
    family, seen = placed(pipelines / name, fake, use_lora=True, offload=offload)
    waiting = {CPU} if offload else {GPU}
    idle = [part for part in ("vae", *family.encoders) if getattr(family, part) is not None]
    tokens = family.tokenize("a sks dog")
    with fake, torch.no_grad():
        assert devices(getattr(family, family.denoiser[0])) == {GPU}
        assert all(devices(getattr(family, part)) == waiting for part in idle)
        encoded = family.encode_prompt({key: value.to(GPU) for key, value in tokens.items()})
        moments = family.encode_pixels(torch.empty(1, 3, SIDE, SIDE, device=GPU))
        assert {value.device for value in (*encoded.values(), moments)} == {GPU}
        assert family.sample_latents(moments).device == GPU
    assert all(devices(getattr(family, part)) == waiting for part in idle)
    assert seen.keys() >= {*idle} - {"vae"} and set.union(*seen.values()) == {GPU}


def test_trained_encoders_stay(pipelines, fake):
    """Flux's CLIP is trained, its T5 is not."""
    family, seen = placed(pipelines / "flux", fake, use_lora=True, train_text_encoder=True, offload=True)
    tokens = family.tokenize("a sks dog")
    with fake:
        family.encode_prompt({key: value.to(GPU) for key, value in tokens.items()})
    assert devices(family.text_encoder) == {GPU} and devices(family.text_encoder_2) == {CPU}
    assert seen["text_encoder"] == seen["text_encoder_2"] == {GPU}


def test_chunks_of_long_prompts(pipelines, fake):
    family, _ = placed(pipelines / "stable-diffusion", fake, use_lora=True, max_token_length=150, offload=True)
    ran = []
    family.text_encoder.register_forward_hook(lambda module, *_: ran.append(devices(module)))
    tokens = family.tokenize("a sks dog")
    with fake, pytest.raises(DataDependentOutputException):  # fake numbers of chunks have no value
        family.encode_prompt({key: value.to(GPU) for key, value in tokens.items()})
    assert ran == [{GPU}] and devices(family.text_encoder) == {CPU}


def test_block_keeps_parts_on_the_accelerator(pipelines, fake):
    """Filling a cache moves each part once."""
    family, _ = placed(pipelines / "stable-diffusion", fake, use_lora=True, offload=True)
    with fake, family.at_work("vae"):
        family.encode_pixels(torch.empty(1, 3, SIDE, SIDE, device=GPU))
        assert devices(family.vae) == {GPU} and devices(family.text_encoder) == {CPU}
    assert devices(family.vae) == {CPU}


@pytest.mark.parametrize("caches", [(), ("--cache_latents", "--pre_compute_text_embeddings")])
def test_same_lora_as_without(flags, caches):
    flags |= {"max_train_steps": 2, "class_prompt": "a dog", "background_prior_weight": 1.0, "report_to": "none"}
    pictures = {"validation_prompt": "a sks dog", "num_validation_images": 1, "validation_steps": 1}
    for folder, switches in (("plain", ()), ("offload", ("--offload",))):
        assert train(flags | pictures, "--use_lora", *caches, *switches, output_dir=folder) == 0
    assert same_weights(f"plain/{LORA}", f"offload/{LORA}")
    for picture in ("step-000001-0.png", "step-000002-0.png"):
        assert (Path("plain/validation") / picture).read_bytes() == (Path("offload/validation") / picture).read_bytes()
