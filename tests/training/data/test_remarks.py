"""Valid but surprising settings cause one warning each; usual ones cause none."""

from pathlib import Path

import pytest
import torch
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

from persam_dreambooth.training.data import remarks
from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.families import load_family
from persam_dreambooth.training.families.lumina2 import SYSTEM_PROMPT
from tests.training.small import configure

pytestmark = pytest.mark.usefixtures("process_state")


def new_warnings(caplog):
    """Return the warnings since the last call."""
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("persam_dreambooth")]
    caplog.clear()
    return lines


@pytest.mark.parametrize(
    ("prompt", "class_prompt", "message"),
    [
        ("a dog", "a dog", "has no word that --class_prompt 'a dog' lacks"),
        ("A  Dog", "a dog", "has no word"),
        ("photo of the dog", "a dog", "has no word"),
        ("a dog", None, "has only one word for the subject"),
        ("a photo of my dog", None, "has only one word"),
        ("a sks dog", "a dog", None),
        ("a photo of sks dog", "a photo of dog", None),
        ("a sks dog", None, None),
        ("a photo of TOK", None, None),
        ("a photo of sks", None, None),
        ("ein <v1> Hund", "ein Hund", None),
        ("собака", None, None),
        (None, "a dog", None),
    ],
)
def test_prompt_without_identifier_causes_warning(caplog, prompt, class_prompt, message):
    data = {"instance_prompt": prompt, "class_prompt": class_prompt, "caption_extension": ".txt"}
    remarks.without_identifier([Concept.of(configure("model", data=data))])
    lines = new_warnings(caplog)
    assert len(lines) == (message is not None) and all(message in line for line in lines)


@pytest.mark.parametrize(("side", "message"), [(512, None), (504, "take 448 or 512"), (8, "take 64 to avoid it")])
def test_side_not_evenly_halved_causes_warning(caplog, side, message):
    remarks.uneven_resolution(configure("model", data={"resolution": side}), 64)
    lines = new_warnings(caplog)
    assert len(lines) == (message is not None) and all(message in line for line in lines)


def test_bfloat16_causes_warning_only_if_emulated(caplog):
    cpu = torch.device("cpu")
    remarks.slow_bfloat16("no", cpu)
    remarks.slow_bfloat16("bf16", torch.device("meta"))
    assert not new_warnings(caplog)
    remarks.slow_bfloat16("bf16", cpu)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "avx512bw"
    assert len(new_warnings(caplog)) == ("avx2" in flags and "avx512bw" not in flags)  # an older x86 processor


def test_few_steps_cause_warning_unless_requested(caplog):
    remarks.few_steps(configure("model"), 1, 3)
    (line,) = new_warnings(caplog)
    assert "--num_train_epochs 1 of 3 photos makes 1 step," in line and "--max_train_steps" in line
    remarks.few_steps(configure("model", optimization={"max_train_steps": 1}), 1, 3)
    remarks.few_steps(configure("model"), 400, 3)
    assert not new_warnings(caplog)


@pytest.mark.parametrize(
    ("name", "fits", "messages"),
    [
        ("stable-diffusion", 75, ["77 tokens that the tokenizer takes"]),
        ("sdxl", 75, ["77 tokens that the tokenizer takes", "77 tokens that the tokenizer_2 takes"]),
        ("flux", 75, ["77 tokens that the tokenizer takes"]),
        ("lumina2", 255 - len(f"{SYSTEM_PROMPT} <Prompt Start> "), ["256 tokens that the tokenizer takes"]),
        ("z-image", 512 - len("^user\n"), ["512 tokens that the tokenizer takes"]),
        ("flux2", 512 - len(f"[system]{SYSTEM_MESSAGE}[user]"), ["512 tokens that the tokenizer takes"]),
    ],
)
def test_truncated_part_of_prompt_is_named(pipelines, caplog, name, fits, messages):
    """The small tokenizers have one token per letter, plus start and end tokens (^ is one)."""
    family = load_family(configure(pipelines / name).model)
    remarks.cut_prompts(family, {"a sks dog": "--instance_prompt", "a" * fits: "--instance_prompt"})
    assert not new_warnings(caplog)
    remarks.cut_prompts(family, {"a" * fits + " and the rest": "the prompt of 01.png"})
    lines = new_warnings(caplog)
    assert len(lines) == len(messages)
    for line, words in zip(lines, messages, strict=True):
        assert words in line and "the prompt of 01.png has more" in line and line.endswith("cut off: 'and the rest'")
