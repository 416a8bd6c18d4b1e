"""The parts of a pipeline on disk: read in full precision, refused in one line where something is missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.utils import extract_model_from_parallel
from transformers import AutoTokenizer

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import ModelConfig


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Turn whatever goes wrong while a part is loaded into one line that names the part."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # missing, damaged and foreign files each raise something else
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{what} cannot be loaded ({reason}); check the name, or download it again") from error


def load_part(kind: Any, part: str, config: ModelConfig) -> Any:
    """One model of the pipeline in float32, refused where weights are missing: the libraries would draw them anew.

    Args:
        kind: its class, a diffusers or transformers model.
        part: its name and folder in the pipeline.
        config: where the pipeline is.

    Raises:
        UserError: the part cannot be read, or not whole.
    """
    name = str(config.pretrained_model_name_or_path)
    with naming(f"the {part} of {name}"):
        model, report = kind.from_pretrained(
            name, subfolder=part, revision=config.revision, variant=config.variant, output_loading_info=True
        )
        if report["missing_keys"]:
            raise UserError(
                f"the {part} of {name} lacks {len(report['missing_keys'])} of its weights (for example "
                f"{sorted(report['missing_keys'])[0]}); download it again"
            )
    return model.float()


def load_config(kind: Any, part: str, config: ModelConfig) -> dict[str, Any]:
    """The config of one of the pipeline's diffusers parts, without its weights.

    Raises:
        UserError: it cannot be read.
    """
    name = str(config.pretrained_model_name_or_path)
    with naming(f"the {part} of {name}"):
        return dict(kind.load_config(name, subfolder=part, revision=config.revision))


def token_ids(tokenizer: Any, prompt: str, length: int | None = None) -> Any:
    """A prompt's tokens, cut or padded to `length`, the tokenizer's own if None: `input_ids` and `attention_mask`."""
    return tokenizer(
        prompt,
        truncation=True,
        padding="max_length",
        max_length=length or tokenizer.model_max_length,
        return_tensors="pt",
    )


def load_tokenizer(part: str, config: ModelConfig) -> Any:
    """One of the pipeline's tokenizers, or the one of `--tokenizer_name`."""
    name, other = str(config.pretrained_model_name_or_path), config.tokenizer_name
    with naming(f"the {part} of {other or name}"):
        if other:
            return AutoTokenizer.from_pretrained(other, revision=config.revision, trust_remote_code=False)
        return AutoTokenizer.from_pretrained(name, subfolder=part, revision=config.revision, trust_remote_code=False)


def unwrapped(module: Any) -> Any:
    """The module inside what Accelerate and torch.compile wrap around it."""
    return extract_model_from_parallel(module, keep_torch_compile=False)
