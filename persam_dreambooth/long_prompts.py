"""Prompts beyond the 75 tokens of CLIP: split into chunks that are encoded one by one, as sd-scripts does.

Each chunk has a begin and an end token like a prompt of its own. The result joins the chunks without the begin and end
tokens between them, so that a prompt of n chunks has 75 n + 2 positions, and one of at most 75 tokens is encoded as
without chunks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from persam_dreambooth.learned_tokens import spelled_out

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
"""Pipelines whose prompts can be longer."""
Tokens = dict[str, Tensor]


def tokenize(tokenizers: Sequence[Any], prompts: Sequence[str], limit: int) -> Tokens:
    """Tokenize prompts for CLIPs; what is beyond the limit is cut off.

    Args:
        tokenizers: the pipeline's one or two.
        prompts: B of them.
        limit: maximum number of tokens.

    Returns:
        `input_ids`, and `input_ids_2` for a second tokenizer: (B, chunks, length) int64. `chunks`: (B, chunks) int64,
        1 for a prompt's own chunks, of which there is at least one; 0 for padding, which holds empty prompts.
    """
    pieces = [[_pieces(tokenizer, prompt, limit) for prompt in prompts] for tokenizer in tokenizers]
    counts = [max(map(len, own)) for own in zip(*pieces, strict=True)]
    found = {}
    for suffix, tokenizer, own in zip(("", "_2"), tokenizers, pieces, strict=False):
        rows = [[_chunk(tokenizer, piece) for piece in (*its, *[[]] * (max(counts) - len(its)))] for its in own]
        found[f"input_ids{suffix}"] = torch.tensor(rows)
    found["chunks"] = torch.tensor([[int(number < count) for number in range(max(counts))] for count in counts])
    return found


def _pieces(tokenizer: Any, prompt: str, limit: int) -> list[list[int]]:
    size = tokenizer.model_max_length - 2
    prompt = spelled_out(tokenizer, prompt)
    ids = tokenizer(prompt, add_special_tokens=False, truncation=True, max_length=limit).input_ids
    return [ids[start : start + size] for start in range(0, max(len(ids), 1), size)]


def _chunk(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    chunk = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    return chunk + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(chunk))


def encode(encode_one: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
    """Encode the chunks of B prompts and join them.

    Args:
        encode_one: takes `input_ids` (N, length) and so on; returns `embeds` (N, length, C), maybe `pooled` (N, C).
        tokens: from `tokenize`.

    Returns:
        `embeds`: (B, L, C), zero behind the end of shorter prompts. `text_mask`: (B, L), 1 where there is a token,
        else 0. `pooled`: (B, C), that of each first chunk.
    """
    batch, count = tokens["chunks"].shape
    flat = {name: value.flatten(0, 1) for name, value in tokens.items() if name != "chunks"}
    encoded = {name: value.unflatten(0, (batch, count)) for name, value in encode_one(flat).items()}
    states = encoded.pop("embeds")
    rows = [
        torch.cat([own[0, :1], own[:number, 1:-1].flatten(0, 1), own[number - 1, -1:]])
        for own, number in zip(states, tokens["chunks"].sum(1).tolist(), strict=True)
    ]
    mask = pad_sequence([row.new_ones(len(row)) for row in rows], batch_first=True)
    first = {name: value[:, 0] for name, value in encoded.items()}
    return {"embeds": pad_sequence(rows, batch_first=True), "text_mask": mask, **first}


@torch.no_grad()
def arguments(pipeline: Any, prompt: str, negative_prompt: str | None, limit: int | None) -> dict[str, Any]:
    """Return the prompts as arguments of a pipeline's call.

    If one of them is longer than a chunk, both get as many chunks as the longer one has, because the pipeline runs
    them as one batch.

    Args:
        pipeline: of any class; only `PIPELINES` have long prompts.
        prompt: what to draw.
        negative_prompt: what not to draw; None is an empty prompt.
        limit: as for `tokenize`; None cuts prompts as the pipeline does.

    Returns:
        `prompt` alone if one chunk is enough; else `prompt_embeds` and so on, (1, L, C), with `negative_prompt` None.
    """
    if limit is None or type(pipeline).__name__ not in PIPELINES:
        return {"prompt": prompt}
    tokenizers = [pipeline.tokenizer, *filter(None, [getattr(pipeline, "tokenizer_2", None)])]
    tokens = tokenize(tokenizers, [prompt, negative_prompt or ""], limit)
    if tokens["chunks"].shape[1] == 1:
        return {"prompt": prompt}
    tokens["chunks"] = torch.ones_like(tokens["chunks"])
    encoded = encode(lambda flat: _encode_with(pipeline, flat), tokens)
    found: dict[str, Any] = {"negative_prompt": None}
    for name, argument in (("embeds", "prompt_embeds"), ("pooled", "pooled_prompt_embeds")):
        if name in encoded:
            positive, negative = encoded[name].chunk(2)
            if negative_prompt is None and getattr(pipeline.config, "force_zeros_for_empty_prompt", False):
                negative = torch.zeros_like(negative)
            found |= {argument: positive, f"negative_{argument}": negative}
    return found


def _encode_with(pipeline: Any, tokens: Tokens) -> Tokens:
    """Encode token ids, (N, length), as the pipeline does."""
    if "input_ids_2" in tokens:
        return encode_for_sdxl(pipeline.text_encoder, pipeline.text_encoder_2, tokens)
    return {"embeds": pipeline.text_encoder(tokens["input_ids"].to(pipeline.text_encoder.device))[0]}


def encode_for_sdxl(first: Any, second: Any, tokens: Tokens) -> Tokens:
    """Encode token ids with both CLIPs of SDXL (paper, section 2.1).

    Args:
        first, second: the text encoders.
        tokens: `input_ids` and `input_ids_2`, (N, length) int64 each.

    Returns:
        `embeds`: (N, length, C), both CLIPs' last hidden states but one. `pooled`: (N, C'), the second CLIP's.
    """
    device = next(first.parameters()).device
    states = first(tokens["input_ids"].to(device), output_hidden_states=True)
    others = second(tokens["input_ids_2"].to(device), output_hidden_states=True)
    embeds = torch.cat([states.hidden_states[-2], others.hidden_states[-2]], dim=-1)
    return {"embeds": embeds, "pooled": others.text_embeds}


def cut_ends(pipeline: Any, prompts: Sequence[str]) -> dict[str, str]:
    """Return the prompts whose end a pipeline does not read, and that end; of `PIPELINES` only."""
    if type(pipeline).__name__ not in PIPELINES:
        return {}
    length = (getattr(pipeline, "max_token_length", None) or pipeline.tokenizer.model_max_length - 2) + 2
    tokenizer = pipeline.tokenizer
    ends = {prompt: cut_off(tokenizer, prompt, length, spelled_out(tokenizer, prompt)) for prompt in prompts}
    return {prompt: end for prompt, end in ends.items() if end}


def cut_off(tokenizer: Any, prompt: str, length: int, asked: str | None = None) -> str:
    """Return the end of a prompt that does not fit.

    Args:
        tokenizer: a fast one; for any other, the end is unknown and "" is returned.
        prompt: the text.
        length: number of tokens that are read, start and end included.
        asked: the text around the prompt that is tokenized; None is the prompt itself.
    """
    asked = prompt if asked is None else asked
    if not getattr(tokenizer, "is_fast", False):
        return ""
    tokens = tokenizer(asked, truncation=True, max_length=length, return_offsets_mapping=True)
    if len(tokens["input_ids"]) < length:
        return ""
    end = max(end for _, end in tokens["offset_mapping"])
    if prompt not in asked:  # learned words are spelled out in it
        prompt = asked
    return prompt[max(end - asked.find(prompt), 0) :].strip()
