"""Load the parts of a pipeline; anything missing or damaged is a one-line error."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from diffusers import ModelMixin
from torch import Tensor
from transformers import AutoTokenizer

from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.model_source import check_tokenizer
from persam_dreambooth.photos.files import file_state
from persam_dreambooth.single_file import SingleFile, is_single_file
from persam_dreambooth.training.config import ModelConfig
from persam_dreambooth.training.families import quantized

RECOMPILATIONS = 64
"""Variants of a block's code that are compiled; torch's limit is 8, beyond which it runs uncompiled."""


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Turn any error while a part is loaded into a one-line UserError that names the part."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # missing, damaged and foreign files raise different exceptions
        reason = first_line(error)
        raise UserError(f"{what} cannot be loaded ({reason}); check the name, or download it again") from error


def single_file(config: ModelConfig) -> SingleFile | None:
    """Return the base model if it is a single file, else None.

    Raises:
        UserError: the file cannot be used.
    """
    name = str(config.pretrained_model_name_or_path)
    return _read(name, config.single_file_config, file_state(Path(name))) if is_single_file(name) else None


@lru_cache(maxsize=1)
def _read(name: str, single_file_config: str | None, state: tuple[int, int, int] | None) -> SingleFile:
    """Read a file's header and config once for all parts of a pipeline, and again if the file has changed."""
    return SingleFile.read(name, single_file_config)


def source(config: ModelConfig) -> str:
    """Return the folder or hub name of the pipeline that has the base model's configs and tokenizers."""
    file = single_file(config)
    return file.config if file else str(config.pretrained_model_name_or_path)


def load_part(
    kind: Any,
    part: str,
    config: ModelConfig,
    quantization: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Load one model of the pipeline; refuse missing weights, which would be initialized at random.

    The autoencoder is that of `--pretrained_vae_model_name_or_path`, if given.

    Args:
        kind: its class, a diffusers or transformers model.
        part: its name and folder in the pipeline.
        config: location of the pipeline.
        quantization: from `quantized.settings`; if there are any, the model is returned as they say.
        dtype: of all weights otherwise, in which they are read.

    Raises:
        UserError: the part cannot be read, or is incomplete.
    """
    name, where = _place(part, config)
    file = single_file(config) if where else None
    with naming(f"the {part} of {file.path if file else name}"):
        if file and file.holds(part):
            return file.load(kind, part).to(dtype)
        given = quantization or {"torch_dtype" if issubclass(kind, ModelMixin) else "dtype": dtype}
        model, report = kind.from_pretrained(name, **where, output_loading_info=True, **given)
        if report["missing_keys"]:
            raise UserError(
                f"the {part} of {name} lacks {len(report['missing_keys'])} of its weights (for example "
                f"{sorted(report['missing_keys'])[0]}); download it again"
            )
    return quantized.prepared(model) if quantization else model.to(dtype)


def load_config(kind: Any, part: str, config: ModelConfig) -> dict[str, Any]:
    """Load the config of one of the pipeline's diffusers parts, without its weights.

    Raises:
        UserError: it cannot be read.
    """
    name, where = _place(part, config)
    where.pop("variant", None)
    with naming(f"the {part} of {name}"):
        return dict(kind.load_config(name, **where))


def _place(part: str, config: ModelConfig) -> tuple[str, dict[str, Any]]:
    """Return the folder or hub name that holds a part, and the keywords of `from_pretrained` that locate it there."""
    if part == "vae" and config.pretrained_vae_model_name_or_path:
        return config.pretrained_vae_model_name_or_path, {}
    return source(config), {"subfolder": part, "revision": config.revision, "variant": config.variant}


def refuse_other_latents(kind: Any, config: ModelConfig) -> None:
    """Refuse a `--pretrained_vae_model_name_or_path` whose latents have another size than the base model's.

    Raises:
        UserError: they differ; the message says in which numbers.
    """
    given = config.pretrained_vae_model_name_or_path
    if not given:
        return
    base = copy.copy(config)
    base.pretrained_vae_model_name_or_path = None
    theirs, own = (load_config(kind, "vae", of) for of in (config, base))
    for key in ("latent_channels", "z_dim", "block_out_channels"):
        sizes = [len(value[key]) if isinstance(value.get(key), list) else value.get(key) for value in (theirs, own)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"--pretrained_vae_model_name_or_path {given} has other latents ({key} {theirs.get(key)}) than the "
                f"base model's autoencoder ({own.get(key)}); give one made for this base model"
            )


def token_ids(tokenizer: Any, prompt: str, length: int | None = None, padded: bool = True, **more: Any) -> Any:
    """Tokenize a prompt, cut or padded to `length` (None: the tokenizer's own): `input_ids` and `attention_mask`.

    `more` is for the tokenizer.
    """
    return tokenizer(
        prompt,
        truncation=True,
        padding="max_length" if padded else False,
        max_length=length or tokenizer.model_max_length,
        return_tensors="pt",
        **more,
    )


def ids_and_mask(tokenizer: Any, prompt: str, length: int | None = None, padded: bool = True) -> dict[str, Tensor]:
    """Tokenize as `token_ids` does; return `input_ids` and `attention_mask`, (1, length) int64 each."""
    tokens = token_ids(tokenizer, prompt, length, padded)
    return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def chat_message(tokenizer: Any, prompt: str, thinking: bool) -> str:
    """Return a prompt as a user's message in the chat template of Qwen3, with thinking enabled or not."""
    messages = [{"role": "user", "content": prompt}]
    template = tokenizer.apply_chat_template
    return str(template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking))


def load_tokenizer(part: str, config: ModelConfig, kind: Any = AutoTokenizer) -> Any:
    """Load one of the pipeline's tokenizers, of a class of transformers, or the one of `--tokenizer_name`."""
    name, other = str(config.pretrained_model_name_or_path), config.tokenizer_name
    with naming(f"the {part} of {other or name}"):
        settings = {"revision": config.revision, "trust_remote_code": False}
        if other:
            tokenizer = AutoTokenizer.from_pretrained(other, **settings)
        else:
            tokenizer = kind.from_pretrained(source(config), subfolder=part, **settings)
        check_tokenizer(tokenizer)
        return tokenizer


def unwrapped(module: Any) -> Any:
    """Return the module inside the wrappers of Accelerate and torch.compile."""
    return extract_model_from_parallel(module, keep_torch_compile=False)


def compile_blocks(model: Any) -> None:
    """Compile the blocks of which a model has many, in place, with torch's inductor, when they first run.

    Blocks of one class and size are compiled once, so that the compiler sees a few blocks instead of the whole model
    (PyTorch's "regional compilation"). Modules and the names of weights stay as they are.

    Args:
        model: of diffusers or transformers, before Accelerate's wrappers; whole, if its class names no such blocks.
    """
    names = getattr(model, "_repeated_blocks", None) or getattr(model, "_no_split_modules", None) or ()
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    # A UNet's blocks have several sizes, and each is compiled with and without gradients and adapters.
    torch._dynamo.config.recompile_limit = max(RECOMPILATIONS, torch._dynamo.config.recompile_limit)
    for block in blocks or [model]:
        block.compile()
