"""Warnings about settings that are allowed but may surprise, given before the first step."""

import re
from collections.abc import Iterable, Mapping

import torch

from persam_dreambooth.errors import counted
from persam_dreambooth.learned_tokens import spelled_out
from persam_dreambooth.long_prompts import cut_off
from persam_dreambooth.model_folder import subject_words
from persam_dreambooth.torch_utils import emulates_bfloat16
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.families import Family
from persam_dreambooth.training.flag_groups import TOKEN_LIMITS
from persam_dreambooth.training.screen import warn

FEW_STEPS = 100
"""Minimum number of steps without a warning; DreamBooth recipes take 400 to 1000."""
SHOWN = 100
"""Maximum number of characters that a message shows of the truncated part of a prompt."""


def slow_bfloat16(precision: str, device: torch.device) -> None:
    """Warn of bfloat16 on a processor that only emulates it."""
    if precision == "bf16" and emulates_bfloat16(device):
        warn(
            "--mixed_precision bf16 on this processor, which has no AVX512, is emulated and many times slower than "
            "float32; use --mixed_precision no"
        )


def uneven_resolution(config: TrainingConfig, unit: int) -> None:
    """Warn of a resolution that the denoiser's downsampling layers cannot halve without a remainder.

    Args:
        config: its `resolution` is a multiple of the model's `side_unit_of`.
        unit: the model's `even_unit_of`: multiples of it, in pixels, are halved without a remainder.
    """
    side = config.data.resolution
    if side % unit:
        low = side // unit * unit
        near = f"{low} or {low + unit}" if low else str(unit)
        warn(
            f"--resolution {side} is not a multiple of {unit}: the model pads its coarser layers, which "
            f"seldom happened in its training; take {near} to avoid it"
        )


def without_identifier(concepts: Iterable[Concept]) -> None:
    """Warn of instance prompts without an identifier.

    With a class prompt the identifier is missing if all words of the instance prompt are in it. Without one, this is
    assumed if only one plain word is left besides articles and the like: then the identifier or the noun is missing.
    """
    for concept in concepts:
        prompt, class_prompt = concept.prompt or "", concept.class_prompt or ""
        own = subject_words(prompt, class_prompt)
        if prompt and class_prompt and not own:
            warn(
                f"--instance_prompt {prompt!r} has no word that --class_prompt {class_prompt!r} lacks: every subject "
                'of that class is trained to look like yours; add an identifier, a rare word as in "a sks dog"'
            )
        elif not class_prompt and len(own) == 1 and _is_plain(own[0]):
            warn(
                f"--instance_prompt {prompt!r} has only one word for the subject; DreamBooth prompts have two, an "
                'identifier and a class noun, as in "a sks dog"'
            )


def _is_plain(word: str) -> bool:
    """Return whether a word is written like an English one: ASCII lower case, with a vowel."""
    return word.isascii() and word.isalpha() and word.islower() and bool(re.search("[aeiouy]", word))


def cut_prompts(family: Family, prompts: Mapping[str, str]) -> None:
    """Warn of prompts that a tokenizer truncates, and show the truncated part.

    Args:
        family: loaded.
        prompts: prompt -> its name in messages.
    """
    limit = family.config.max_token_length
    longer = "max_token_length" in family.flags and limit != TOKEN_LIMITS[-1]
    advice = f" (--max_token_length {TOKEN_LIMITS[-1]} reads more)" if longer else ""
    for prompt, owner in prompts.items():
        for key, ids in family.tokenize(prompt).items():
            name, length = key.replace("input_ids", "tokenizer"), (limit + 2 if limit else ids.shape[-1])
            tokenizer = getattr(family, name, None)
            tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # Flux.2 has a processor
            if tokenizer is None:  # of the attention mask
                continue
            cut = cut_off(tokenizer, prompt, length, spelled_out(tokenizer, family.asked(prompt)))
            if cut:
                shown = cut if len(cut) <= SHOWN else f"{cut[:SHOWN]}..."
                warn(f"{owner} has more than the {length} tokens that the {name} takes{advice}; cut off: {shown!r}")


def few_steps(config: TrainingConfig, steps: int, photos: int) -> None:
    """Warn if the length of training is given in epochs, and with so few photos these make few steps."""
    if config.optimization.max_train_steps is None and steps < FEW_STEPS:
        warn(
            f"--num_train_epochs {config.optimization.num_train_epochs} of {counted(photos, 'photo')} makes "
            f"{counted(steps, 'step')}, which teaches little; give --max_train_steps, a few hundred"
        )
