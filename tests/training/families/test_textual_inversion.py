"""Textual inversion: only new rows change, nothing from the background; saved, resumed, generated with.

`tests/parity/test_diffusers_losses.py` compares the losses with those of diffusers' advanced scripts.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler, FluxPipeline
from peft.tuners.trainable_tokens import TrainableTokensLayer
from PIL import Image
from safetensors.torch import load_file

from persam_dreambooth import generation, learned_tokens
from persam_dreambooth.cli import main
from persam_dreambooth.evaluation.generation.models import digest_of
from persam_dreambooth.model_folder import weights_digest
from persam_dreambooth.model_source import ModelSource
from persam_dreambooth.training.data.dataset import stack_prompts
from persam_dreambooth.training.families import load_family
from persam_dreambooth.training.families.phrases import token_places
from persam_dreambooth.training.objective import training_loss
from persam_dreambooth.training.runtime import validation
from persam_dreambooth.training.runtime.optimizer import build_optimizer, build_scheduler
from tests.training.runs import same_weights, train
from tests.training.small import batch_for, configure, is_refused, make, trained_parameters

EMBEDDINGS, LORA = "learned_embeds.safetensors", "pytorch_lora_weights.safetensors"
OURS = ("--use_lora", "--train_text_encoder_ti", "--report_to=none")
PRIOR = {"with_prior_preservation": True, "class_data_dir": "class", "class_prompt": "a dog"}
CASES = {
    "stable-diffusion": ("stable-diffusion", {}),
    "sdxl": ("sdxl", {}),
    "sdxl-alone": ("sdxl", {"use_lora": False}),
    "flux": ("flux", {}),
    "flux-t5": ("flux", {"enable_t5_ti": True}),
    "flux-t5-alone": ("flux", {"enable_t5_ti": True, "use_lora": False}),
}
ONE = {"num_images_per_prompt": 1}


def inverted(base, **model):
    """A config and a family with new tokens, and a batch whose prompt has them."""
    config, family = make(base, {"use_lora": True, "train_text_encoder_ti": True, **model})
    prompts = stack_prompts([family.tokenize(f"a {config.model.new_words[0]} dog")] * 2)
    return config, family, batch_for(family, class_images=False)._replace(prompt=prompts)


def rows_of(family):
    return [weight for name, weight in named(family) if "trainable_tokens_delta" in name]


def named(family):
    return [named for part in family.inverted().values() for named in part.named_parameters()]


def gradients(config, family, batch, added=0.0):
    """The gradients of the new rows, with a number added to the target outside the masks."""
    add_noise = family.add_noise

    def noised(latents, settings):
        found = add_noise(latents, settings)
        subject = torch.nn.functional.max_pool2d(batch.mask, family.cell_of(config.model))
        return replace(found, target=found.target + added * (subject == 0))

    family.add_noise = noised
    torch.manual_seed(1)
    loss, _ = training_loss(family, batch, config)
    family.add_noise = add_noise
    return torch.autograd.grad(loss, rows_of(family))


@pytest.mark.parametrize("case", CASES)
def test_background_has_no_gradient_and_only_new_rows_change(pipelines, case):
    name, model = CASES[case]
    config, family, batch = inverted(pipelines / name, **model)
    parts = family.inverted()
    assert list(parts) == list(family.encoders)[: 1 if case == "flux" else 2]
    learned = gradients(config, family, batch)
    assert len(learned) == len(parts) and all((rows != 0).any() for rows in learned)
    assert all(map(torch.equal, learned, gradients(config, family, batch, added=100.0)))
    nothing = batch._replace(mask=torch.zeros_like(batch.mask))
    assert all((rows == 0.0).all() for rows in gradients(config, family, nothing))

    loaded = DiffusionPipeline.from_pretrained(pipelines / name)
    before = [getattr(loaded, part).get_input_embeddings().weight for part in parts]
    denoiser = getattr(family, family.denoiser[0])
    everything = {key: weight.detach().clone() for key, weight in denoiser.named_parameters()}
    rows = [row.detach().clone() for row in rows_of(family)]
    rest = {key: weight.clone() for key, weight in named(family) if "trainable_tokens" not in key}
    optimizer = build_optimizer(trained_parameters(family), config.optimization, 2, rows_of(family), apart=True)
    training_loss(family, batch, config)[0].backward()
    optimizer.step()
    stepped = [row.detach().clone() for row in rows_of(family)]
    family.finish_step()
    for part, old, row, step in zip(parts.values(), before, rows, stepped, strict=True):
        (layer,) = (module for module in part.modules() if isinstance(module, TrainableTokensLayer))
        now = layer.get_merged_weights(["default"])
        assert torch.equal(now[: len(old)], old) and len(now) == len(old) + 2
        # The script's: a tenth of the way, on a logarithmic scale, to the deviation of all embeddings.
        all_rows = np.concatenate([old.detach().numpy(), np.repeat(old.detach().numpy().mean(0)[None], 2, 0)])
        ratio = all_rows.std(ddof=1, dtype=np.float64) / step.numpy().std(ddof=1, dtype=np.float64)
        np.testing.assert_allclose(now[len(old) :].detach(), step.numpy() * ratio**0.1, rtol=1e-5)
        assert (step != row).all() and abs(ratio - 1) > 1e-3
    assert all(torch.equal(weight, rest[key]) for key, weight in named(family) if "trainable_tokens" not in key)
    same = [torch.equal(weight, everything[key]) for key, weight in denoiser.named_parameters()]
    assert all(same) != config.model.use_lora


def test_words_are_found_alone_and_in_their_case(pipelines):
    config, family, _ = inverted(pipelines / "sdxl", token_abstraction="TOK1, dog-1", num_new_tokens_per_abstraction=3)
    assert config.model.new_words == ["TOK1", "dog-1"]
    first = len(DiffusionPipeline.from_pretrained(pipelines / "sdxl").tokenizer)
    for key in ("input_ids", "input_ids_2"):
        for prompt, new in (("a TOK1, dog-1", 6), ("tok1 TOK12 xTOK1 TOK dog", 0), ("(TOK1)", 3)):
            ids = family.tokenize(prompt)[key][0].tolist()
            assert [number for number in ids if number >= first] == list(range(first, first + new)), prompt
    tokens = family.tokenize("a TOK1 dog")["input_ids"][0].tolist()
    assert token_places(family.tokenizer, tokens, learned_tokens.spelled_out(family.tokenizer, "TOK1")) == (2, 3, 4)


def test_t5_gets_as_many_tokens_as_clip_and_no_spaces_between(pipelines):
    """T5 has a token for the space, CLIP has not; CLIP's letters of the concept are taken in turn for the rows."""
    model = {"enable_t5_ti": True, "token_abstraction": "TOK1,TOK2", "initializer_concept": "dog"}
    config, family, _ = inverted(pipelines / "flux", **model)
    tokens, space = family.tokenize("a TOK1 dog"), family.tokenizer_2.convert_tokens_to_ids("\u2581")
    for key, count in (("input_ids", 512 + 2), ("input_ids_2", 98)):
        ids = tokens[key][0].tolist()
        start = ids.index(count)
        assert ids[start : start + 4] == list(range(count, count + 4)) and count + 4 not in ids
    assert ids[start + 4] == space
    loaded = DiffusionPipeline.from_pretrained(pipelines / "flux")
    for rows, number in zip(rows_of(family), ("", "_2"), strict=True):
        table = getattr(loaded, f"text_encoder{number}").get_input_embeddings().weight
        concept = getattr(loaded, f"tokenizer{number}")("dog", add_special_tokens=False).input_ids
        assert torch.equal(rows, table[[concept[place % len(concept)] for place in range(8)]])
    ((tokenizer, length),) = family.prompt_tokenizers(config.model)
    assert tokenizer("a TOK1 dog").input_ids[2] == 98 and length == 512


@torch.no_grad()
def test_t5_with_more_rows_than_tokens_keeps_its_rows(pipelines, tmp_path):
    """As the released one: the new tokens' rows are there already, and no layer is replaced."""
    plain = FluxPipeline.from_pretrained(pipelines / "flux")
    plain.text_encoder_2.resize_token_embeddings(104)
    plain.save_pretrained(tmp_path / "flux")
    _, family, batch = inverted(tmp_path / "flux", enable_t5_ti=True)
    before = family.encode_prompt(batch.prompt)["embeds"]
    assert len(family.text_encoder_2.get_input_embeddings().weight) == 104
    for rows in rows_of(family):
        rows += torch.randn_like(rows)
    learned = family.encode_prompt(batch.prompt)["embeds"]
    assert not torch.allclose(learned, before, atol=1e-3)
    family.save(tmp_path)
    ours = encoded(generation.load_pipeline(tmp_path, tmp_path / "flux", "cpu"), "a TOK dog")[0]
    torch.testing.assert_close(ours[0], learned[0])


def test_rows_begin_at_random_or_as_a_concept(pipelines):
    first, again = (rows_of(seeded_family(pipelines, seed))[0] for seed in (0, 1))
    assert first.shape == (2, 32) and not torch.equal(first, again)
    _, family, _ = inverted(pipelines / "stable-diffusion", initializer_concept="dog", token_abstraction="T1,T2")
    (rows,) = rows_of(family)
    ids = family.tokenizer("dog", add_special_tokens=False).input_ids
    table = (
        DiffusionPipeline.from_pretrained(pipelines / "stable-diffusion").text_encoder.get_input_embeddings().weight
    )
    assert len(ids) == 3 and torch.equal(rows, table[ids * 2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_of_encoders_in_half_precision_begin_and_stay_in_float32(pipelines, dtype):
    config = configure(pipelines / "sdxl", {"use_lora": True, "train_text_encoder_ti": True})
    family = load_family(config.model, dtype)
    family.place(torch.device("cpu"), dtype)
    assert family.text_encoder.get_input_embeddings().weight.dtype == dtype
    for rows, deviation in zip(rows_of(family), family.new_tokens.deviations.values(), strict=True):
        assert rows.dtype == torch.float32 and rows.std().item() == pytest.approx(deviation.item(), rel=0.3)
    family.finish_step()
    with torch.autocast("cpu", dtype):
        embeds = family.encode_prompt(family.tokenize("a TOK dog"))["embeds"]
    assert embeds.isfinite().all()
    learned = torch.autograd.grad(embeds.float().square().sum(), rows_of(family))
    assert all(rows.dtype == torch.float32 and rows.any() for rows in learned)


def seeded_family(pipelines, seed):
    torch.manual_seed(seed)
    return inverted(pipelines / "stable-diffusion")[1]


def test_embeddings_stop_after_their_share_of_the_steps(pipelines):
    config, family, _ = inverted(pipelines / "stable-diffusion", train_text_encoder_ti_frac=0.4)
    settings = replace(config.optimization, text_encoder_lr=0.1, learning_rate=0.2, lr_warmup_steps=0)
    optimizer = build_optimizer(trained_parameters(family), settings, 2, rows_of(family), apart=True)
    rates = []
    schedule = build_scheduler(optimizer, settings, 5, 2, config.model.train_text_encoder_ti_frac)
    for _ in range(10):  # two processes
        rates.append(tuple(schedule.get_last_lr()))
        optimizer.step()
        schedule.step()
    assert rates == [(0.2, 0.1)] * 4 + [(0.2, 0.0)] * 6


@torch.no_grad()
def encoded(pipeline, prompt, prompt_2=None):
    if isinstance(pipeline, FluxPipeline):
        return pipeline.encode_prompt(prompt, prompt_2, device="cpu", max_sequence_length=512)
    found = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False, **ONE)
    return [value for value in found if value is not None]


def from_card(folder):
    """The pipeline of the card's lines, which are plain diffusers."""
    snippet = re.search(r"```python\n(.*)\nimage = .*?```", Path(folder, "README.md").read_text(), re.DOTALL).group(1)
    assert ("load_lora_weights" in snippet) == Path(folder, LORA).exists() and "load_textual_inversion" in snippet
    names = {}
    exec(compile(snippet.replace("'this folder'", repr(folder)), "card", "exec"), names)
    return names["pipeline"]


def test_two_subjects_learn_words_that_diffusers_loads_too(flags, pipelines, capsys):
    """With SDXL: each subject has its word; a pipeline of ours, of the card and of training encode alike."""
    shutil.copytree("photos", "others")
    subjects = [
        {"instance_data_dir": folder, "instance_mask_dir": "masks", "instance_prompt": f"a {word} dog"}
        for folder, word in (("photos", "TOK1"), ("others", "TOK2"))
    ]
    Path("subjects.json").write_text(json.dumps(subjects))
    base = {"pretrained_model_name_or_path": pipelines / "sdxl", "concepts_list": "subjects.json"}
    given = {"instance_data_dir": None, "instance_mask_dir": None, "instance_prompt": None, "max_train_steps": 2}
    more = {"token_abstraction": "TOK1,TOK2", "text_encoder_lr": 1e-2, "checkpointing_steps": 2}
    assert train(flags | base | given, *OURS, **more) == 0
    assert "LoRA rank 4 of sdxl's unet and 4 new tokens (TOK1, TOK2)" in capsys.readouterr().out
    saved = load_file(f"output/{EMBEDDINGS}")
    assert {key: tuple(value.shape) for key, value in saved.items()} == {"clip_l": (4, 32), "clip_g": (4, 32)}
    ours, card = generation.load_pipeline("output", device="cpu"), from_card("output")
    checkpoint = generation.load_pipeline("output/checkpoint-2", device="cpu")
    prompts = [f"a {word} dog in the jungle" for word in ("TOK1", "TOK2", "TOK")]
    assert (
        ".replace('TOK1', '<s0><s1>').replace('TOK2', '<s2><s3>')).images[0]" in Path("output/README.md").read_text()
    )
    for prompt in prompts:
        theirs = prompt.replace("TOK1", "<s0><s1>").replace("TOK2", "<s2><s3>")
        assert all(map(torch.equal, encoded(ours, prompt), encoded(card, theirs)))
        assert all(map(torch.equal, encoded(ours, prompt), encoded(checkpoint, prompt)))
    plain = DiffusionPipeline.from_pretrained(pipelines / "sdxl")
    changed = [not torch.equal(encoded(ours, prompt)[0], encoded(plain, prompt)[0]) for prompt in prompts]
    assert changed == [True, True, False]
    before = weights_digest(Path("output")), digest_of(ModelSource("output"))
    learned_tokens.save(Path("output"), {"TOK1": 4}, {"clip_l": saved["clip_l"]})
    after = weights_digest(Path("output")), digest_of(ModelSource("output"))
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_resumed_run_ends_like_an_uninterrupted_one_and_draws_its_word(flags):
    """Interrupted where the embeddings stop. Validation pictures and `generate` read the word in the same way."""
    more = {"instance_prompt": "a TOK dog", "text_encoder_lr": 1e-2, "checkpointing_steps": 2, "max_train_steps": 4}
    more |= {"validation_prompt": "a TOK dog", "num_validation_images": 1}
    assert train(flags, *OURS, **more, output_dir="whole") == 0
    Path("output").mkdir()
    shutil.copytree("whole/checkpoint-2", "output/checkpoint-2")
    shutil.copy("whole/training_config.yaml", "output")
    config = Path("output/training_config.yaml")
    config.write_text(config.read_text().replace("whole", "output"))
    assert train(flags, *OURS, **more, resume_from_checkpoint="latest") == 0
    for name in (EMBEDDINGS, LORA, f"checkpoint-4/{EMBEDDINGS}"):
        assert same_weights(f"whole/{name}", f"output/{name}")
    states = [torch.load(f"{folder}/checkpoint-4/optimizer.bin")["state"] for folder in ("whole", "output")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key][name]) for key in states[0] for name, value in states[0][key].items())
    rows = [load_file(f"whole/{name}{EMBEDDINGS}")["clip_l"] for name in ("checkpoint-2/", "")]
    ratios = rows[1] / rows[0]  # learned no more, only rescaled
    assert torch.allclose(ratios, ratios[0, 0].expand(2, 32), rtol=1e-5)

    pipeline = generation.load_pipeline("output", device="cpu")
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    size = {"height": 32, "width": 32, "num_inference_steps": validation.INFERENCE_STEPS}
    drawn = [generation.draw(pipeline, prompt, 0, **size).image for prompt in ("a TOK dog", "a dog")]
    (picture,) = Path("output/validation").glob("step-000004-*.png")
    validated, own, other = (np.asarray(image, int) for image in (Image.open(picture), *drawn))
    np.testing.assert_allclose(validated, own, atol=1)
    assert abs(validated - other).max() > 1


def test_flux_without_t5_is_read_like_its_card(flags, pipelines):
    base = {"pretrained_model_name_or_path": pipelines / "flux", "instance_prompt": "a TOK dog", "max_train_steps": 1}
    assert train(flags | base, *OURS) == 0
    assert load_file(f"output/{EMBEDDINGS}").keys() == {"clip_l"}
    ours, card = generation.load_pipeline("output", device="cpu"), from_card("output")
    line = "prompt='a TOK dog in the jungle'.replace('TOK', '<s0><s1>'), prompt_2='a TOK dog in the jungle'"
    assert line in Path("output/README.md").read_text()
    theirs = encoded(card, "a <s0><s1> dog", "a TOK dog")
    assert all(map(torch.equal, encoded(ours, "a TOK dog"), theirs))
    assert not torch.equal(theirs[1], encoded(card, "a dog")[1])


def test_t5_resumed_run_ends_like_an_uninterrupted_one(flags, pipelines):
    more = {
        "pretrained_model_name_or_path": pipelines / "flux",
        "instance_prompt": "a TOK dog",
        "text_encoder_lr": 1e-2,
    }
    more |= {"checkpointing_steps": 1, "max_train_steps": 2, "train_text_encoder_ti_frac": 1}
    ours = (*OURS, "--enable_t5_ti")
    assert train(flags, *ours, **more, output_dir="whole") == 0
    resumed_after_first_step()
    assert train(flags, *ours, **more, resume_from_checkpoint="latest") == 0
    assert all(same_weights(f"whole/{name}", f"output/{name}") for name in (EMBEDDINGS, LORA))
    saved, first = (load_file(f"whole/{folder}{EMBEDDINGS}") for folder in ("", "checkpoint-1/"))
    assert {key: tuple(value.shape) for key, value in saved.items()} == {"clip_l": (2, 32), "t5": (2, 32)}
    assert all((saved[key] != first[key]).all() for key in saved)
    ours, card = generation.load_pipeline("output", device="cpu"), from_card("output")
    assert "prompt_2" not in Path("output/README.md").read_text()
    assert all(map(torch.equal, encoded(ours, "a TOK dog"), encoded(card, "a <s0><s1> dog")))


def resumed_after_first_step():
    """Put the output folder of the run in `whole` back to where it was after its first step."""
    Path("output").mkdir()
    shutil.copytree("whole/checkpoint-1", "output/checkpoint-1")
    Path("output/training_config.yaml").write_text(
        Path("whole/training_config.yaml").read_text().replace("whole", "output")
    )


def test_words_alone_are_trained_resumed_and_generated_with(flags, models, capsys):
    more = {"instance_prompt": "a TOK dog", "checkpointing_steps": 1, "max_train_steps": 2}
    words = ("--train_text_encoder_ti", "--report_to=none", "--class_prompt=a dog", "--background_prior_weight=1")
    assert train(flags, *words, **more, output_dir="whole") == 0
    said = capsys.readouterr().out
    assert "2 new tokens (TOK) of stable-diffusion's text_encoder, 64 numbers and nothing else" in said
    resumed_after_first_step()
    assert train(flags, *words, **more, resume_from_checkpoint="latest") == 0
    assert same_weights(f"whole/{EMBEDDINGS}", f"output/{EMBEDDINGS}")
    assert [path.name for path in Path("output").rglob("*.safetensors") if "rng" not in path.name] == [EMBEDDINGS] * 3
    (learned,) = load_file(f"output/{EMBEDDINGS}").values()
    (before,) = load_file(f"output/checkpoint-1/{EMBEDDINGS}").values()
    assert (learned != before).all()

    ours, card = generation.load_pipeline("output", device="cpu"), from_card("output")
    plain = DiffusionPipeline.from_pretrained(models / "stable-diffusion")
    plain.load_textual_inversion("output", token="<tok>")  # as diffusers' own documentation loads a folder
    states = encoded(ours, "a TOK dog")
    assert torch.equal(states[0], encoded(card, "a <s0><s1> dog")[0])
    assert torch.equal(states[0], encoded(plain, "a <tok> dog")[0])
    assert not torch.equal(states[0], encoded(plain, "a TOK dog")[0])
    assert all(map(torch.equal, ours.unet.state_dict().values(), plain.unet.state_dict().values()))
    assert ModelSource("output").needs_base and digest_of(ModelSource("output")) and weights_digest(Path("output"))

    size = ("--height", "32", "--width", "32", "--num_inference_steps", "1", "--num_images", "1")
    assert main(["generate", "--model", "output", "--prompt", "a TOK dog", "--output", "drawn", *size]) == 0
    assert train(flags, *words, **more) == 2  # the folder holds a finished model


def test_other_families_refuse_it():
    ours = {"use_lora": True, "train_text_encoder_ti": True}
    assert is_refused("sd3", ours) and not is_refused("sdxl", ours) and not is_refused("flux", ours)
    assert is_refused("sdxl", ours | {"enable_t5_ti": True})
    assert not is_refused("flux", ours | {"enable_t5_ti": True})


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "no photo's prompt has the word TOK"),
        ({"instance_prompt": "a TOK dog", "class_prompt": "a TOK"}, "has the new word TOK, which is the subject's"),
        ({"token_abstraction": "<|endoftext|>", "instance_prompt": "<|endoftext|>"}, "has a token '<|endoftext|>'"),
    ],
    ids=["missing", "class", "taken"],
)
def test_prompts_without_the_word_are_refused(flags, more, words, capsys):
    assert train(flags, *OURS, **more) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and not Path("output").exists()


def test_damaged_embeddings_are_named(flags, capsys):
    assert train(flags, *OURS, instance_prompt="a TOK dog", max_train_steps=1) == 0
    capsys.readouterr()
    for rows, words in (
        ({"clip_l": torch.zeros(2, 8)}, "another kind of base"),
        ({}, "does not say which words"),
    ):
        learned_tokens.save(Path("output"), {"TOK": 2}, rows)
        assert main(["generate", "--model", "output", "--prompt", "a TOK dog", "--output", "drawn"]) == 2
        assert words in capsys.readouterr().err.splitlines()[-1]
