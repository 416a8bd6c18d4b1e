"""The paper's ablations on PerSeg: tables 4 (techniques), 5 (what is fitted) and 6 (mask or box).

The alternatives in table 5 use PerSAM-F's prompts (one positive point) and cascade, and differ only in what is fitted
on the reference photo. Tuned decoders are copies of the SAM's mask decoder with a few added parameters; a copy
replaces the original for the duration of a `with` block. During and after their fit, each of the three masks has the
weight one third.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.running import EvaluatedMethod, Segmenter, one_shot_method
from persam_dreambooth.segmentation import (
    Backbone,
    EncodedPhoto,
    Method,
    PerSAM,
    Prompts,
    Reference,
    Subject,
    location,
)
from persam_dreambooth.segmentation.fidelity import Fidelity
from persam_dreambooth.segmentation.mask_weights import LEARNING_RATE, STEPS, dice_and_focal

TABLES: Final[dict[str, dict[str, str]]] = {
    "4": {
        "positive-prior": "positive location prior",
        "negative-prior": "+ negative location prior",
        "refinement": "+ cascaded post-refinement",
        "guided-attention": "+ target-guided attention",
        "persam": "+ target-semantic prompting = PerSAM",
        "persam-f": "mask weights = PerSAM-F, as released",
        "persam-f-printed": "+ mask weights = PerSAM-F, as printed",
    },
    "5": {
        "persam": "nothing: PerSAM (0 parameters)",
        "thirds": "nothing: one third each (0)",
        "prompt-tokens": "prompt tuning of the decoder (12K)",
        "adapters": "adapters in the decoder (196K)",
        "lora": "LoRA in the decoder (293K)",
        "three-weights": "three free mask weights (3)",
        "persam-f": "two mask weights = PerSAM-F (2)",
    },
    "6": {
        "persam": "PerSAM, reference mask",
        "persam-box": "PerSAM, reference box",
        "persam-f": "PerSAM-F, reference mask",
        "persam-f-box": "PerSAM-F, reference box",
    },
}
"""Table -> method -> title of its row."""

TITLES: Final = {"4": "techniques", "5": "what is fitted", "6": "what is given"}


def methods_of(tables: list[str]) -> list[str]:
    """Return the names of the methods in some tables, without duplicates."""
    return list(dict.fromkeys(name for table in tables for name in TABLES[table]))


def ladder(fidelity: Fidelity) -> dict[str, Method]:
    """Table 4: each method adds one technique to the previous one.

    The last row exists twice: PerSAM-F as its authors released it, without PerSAM's guidance, and as the paper
    prints it, on top of all of PerSAM.
    """
    bare = Method(fidelity, negative_prior=False, refinement=False, guided_attention=False, semantic_prompting=False)
    negative = replace(bare, negative_prior=True)
    refined = replace(negative, refinement=True)
    return {
        "positive-prior": bare,
        "negative-prior": negative,
        "refinement": refined,
        "guided-attention": replace(refined, guided_attention=True),
        "persam": Method(fidelity),
        "persam-f": replace(Method.persam_f(), fidelity=fidelity),
        "persam-f-printed": replace(Method(fidelity), mask_weights=True),
    }


def build(names: list[str], backbone: Backbone, fidelity: Fidelity, steps: int) -> dict[str, EvaluatedMethod]:
    """Build methods by name on one SAM.

    Args:
        names: from `TABLES`.
        backbone: the SAM.
        fidelity: of all methods.
        steps: number of steps of every fit except PerSAM-F's own.
    """
    methods = ladder(fidelity)
    fitted = methods["persam-f"]
    tuners = {
        "thirds": None,
        "prompt-tokens": prompt_tokens,
        "adapters": adapters,
        "lora": lora,
    }
    makers: dict[str, Callable[[], EvaluatedMethod]] = {
        "three-weights": lambda: three_weights(backbone, fitted, steps),
        "persam-box": lambda: one_shot_method(PerSAM(backbone, methods["persam"]), box=True),
        "persam-f-box": lambda: one_shot_method(PerSAM(backbone, fitted), box=True),
    }
    built = {name: one_shot_method(PerSAM(backbone, method)) for name, method in methods.items() if name in names}
    built |= {name: tuned_decoder(backbone, fitted, tuner, steps) for name, tuner in tuners.items() if name in names}
    return built | {name: make() for name, make in makers.items() if name in names}


PROMPT_TOKENS, ADAPTER_WIDTH, LORA_RANK = 24, 192, 14
"""Sizes that add the paper's numbers of parameters to SAM's decoder, if every transformer block gets a share."""

Tuner = Callable[[nn.Module], None]
"""Adds learnable parameters to a mask decoder's transformer, whose own weights are frozen."""


def three_weights(backbone: Backbone, method: Method, steps: int = STEPS) -> EvaluatedMethod:
    """PerSAM-F with three mask weights that need not sum to 1."""
    persam = PerSAM(backbone, method)

    def learn(references: Sequence[Reference]) -> Segmenter:
        (reference,) = references
        subject, photo = _at_thirds(persam, reference)
        decoded, _ = backbone.decode(photo.embedding, _question(photo, subject), multimask=True, extra=photo.extra)
        weights = fit_three_weights(photo.frame.to_original(decoded), _foreground(reference, photo), steps)
        fitted = replace(subject, mask_weights=weights)
        return lambda photo: persam.segment(photo, fitted).mask

    return learn


def fit_three_weights(logits: Tensor, foreground: Tensor, steps: int = STEPS) -> Tensor:
    """Fit the (3,) float32 weights whose weighted sum of (3, H, W) logits is closest to an (H, W) mask in {0, 1}."""
    weights = nn.Parameter(torch.full((3,), 1 / 3, device=logits.device))
    _descend([weights], lambda: dice_and_focal(torch.einsum("k,khw->hw", weights, logits), foreground), steps)
    return weights.detach()


def tuned_decoder(backbone: Backbone, method: Method, tuner: Tuner | None, steps: int = STEPS) -> EvaluatedMethod:
    """PerSAM-F with mask weights fixed at one third and a tuned decoder; with `tuner` None nothing is tuned.

    Raises:
        UserError: the decoder is tuned, but the backbone's mask decoder cannot be replaced.
    """
    original = None if tuner is None else _decoder(backbone)
    persam = PerSAM(backbone, method)

    def learn(references: Sequence[Reference]) -> Segmenter:
        (reference,) = references
        subject, photo = _at_thirds(persam, reference)
        if tuner is None:
            return lambda photo: persam.segment(photo, subject).mask
        decoder: Any = copy.deepcopy(original)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            tuner(decoder.transformer)
        decoder.to(photo.embedding.device)
        _tune(backbone, decoder, photo, _question(photo, subject), _foreground(reference, photo), steps)

        def find(photo: EncodedPhoto) -> Any:
            with _in_place(backbone, decoder):
                return persam.segment(photo, subject).mask

        return find

    return learn


def prompt_tokens(transformer: Any) -> None:
    """Prompt tuning: learned tokens appended to the decoder's own, which keep their positions.

    Each block has its own learned tokens, which replace those of the block before. The first block's tokens are also
    the positional term in all blocks.
    """
    width = transformer.layers[0].self_attn.q_proj.in_features
    transformer.prompt_tokens = nn.Parameter(torch.randn(len(transformer.layers), PROMPT_TOKENS, width) * 0.02)

    def append(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        for name in ("point_embedding", "point_embeddings"):
            if name in kwargs:
                return args, kwargs | {name: _with_tokens(kwargs[name], module.prompt_tokens[0])}
        image, position, tokens, *rest = args
        return (image, position, _with_tokens(tokens, module.prompt_tokens[0]), *rest), kwargs

    transformer.register_forward_pre_hook(append, with_kwargs=True)
    for number, layer in enumerate(transformer.layers[1:], start=1):

        def exchange(
            module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], number: int = number
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            tokens, *rest = (kwargs["queries"],) if "queries" in kwargs else args
            exchanged = _with_tokens(tokens[..., :-PROMPT_TOKENS, :], transformer.prompt_tokens[number])
            return (args, kwargs | {"queries": exchanged}) if "queries" in kwargs else ((exchanged, *rest), kwargs)

        layer.register_forward_pre_hook(exchange, with_kwargs=True)


def _with_tokens(tokens: Tensor, learned: Tensor) -> Tensor:
    """Concatenate (..., N, C) and (P, C) to (..., N + P, C)."""
    return torch.cat([tokens, learned.expand(*tokens.shape[:-2], *learned.shape)], dim=-2)


def adapters(transformer: Any) -> None:
    """Adapters: a residual bottleneck after every block's MLP, initialized to zero output."""
    for layer in transformer.layers:
        width = layer.self_attn.q_proj.in_features
        down = nn.Linear(width, ADAPTER_WIDTH, bias=False)
        up = nn.Linear(ADAPTER_WIDTH, width, bias=False)
        nn.init.zeros_(up.weight)
        layer.adapter = nn.Sequential(down, nn.GELU(), up)
        layer.mlp.register_forward_hook(lambda module, args, output, adapter=layer.adapter: output + adapter(output))


def lora(transformer: Any) -> None:
    """LoRA on every linear layer."""
    linear = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    inject_adapter_in_model(LoraConfig(r=LORA_RANK, target_modules=linear), transformer)


def _at_thirds(persam: PerSAM, reference: Reference) -> tuple[Subject, EncodedPhoto]:
    """Return PerSAM-F's subject with weights of one third, and the encoded reference photo."""
    (photo,) = persam.encode([reference.pixels])
    thirds = torch.full((3,), 1 / 3, device=photo.embedding.device)
    return persam.personalize(reference, thirds), photo


def _question(photo: EncodedPhoto, subject: Subject) -> Prompts:
    """Return the prompt of PerSAM-F's fit, a single positive point."""
    confidence = location.on_photo(subject.target_feature, photo)
    points, labels = location.location_prior(confidence, negative=False)
    return Prompts(photo.frame.to_model(points), labels)


def _foreground(reference: Reference, photo: EncodedPhoto) -> Tensor:
    """Return the reference mask as (H, W) float32 in {0, 1}."""
    return torch.from_numpy(reference.foreground).float().to(photo.embedding.device)


def _tune(
    backbone: Backbone, decoder: nn.Module, photo: EncodedPhoto, asked: Prompts, foreground: Tensor, steps: int
) -> None:
    """Fit the learnable parameters of a copied decoder on the reference photo."""

    def with_gradients(module: nn.Module, args: tuple[Any, ...]) -> None:
        torch.set_grad_enabled(True)  # `decode` disables gradients, and restores the mode on exit

    def loss() -> Tensor:
        logits, _ = backbone.decode(photo.embedding, asked, multimask=True, extra=photo.extra)
        return dice_and_focal(photo.frame.to_original(logits.mean(0, keepdim=True))[0], foreground)

    with _in_place(backbone, decoder), decoder.register_forward_pre_hook(with_gradients):
        _descend([weight for weight in decoder.parameters() if weight.requires_grad], loss, steps)


def _descend(parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor], steps: int) -> None:
    """Minimize with AdamW and cosine decay to zero, as for PerSAM-F."""
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        with torch.enable_grad():
            optimizer.zero_grad()
            loss().backward()
        optimizer.step()
        schedule.step()


def _decoder(backbone: Backbone) -> Any:
    """Return a backbone's mask decoder; only this module accesses a backbone's internals from outside."""
    decoder = getattr(getattr(backbone, "_model", None), "mask_decoder", None)
    if decoder is None:
        raise UserError(
            f"the mask decoder of {backbone.name} cannot be replaced, which table 5 requires; use a transformers SAM "
            "or an original checkpoint, or leave 5 out of --tables"
        )
    return decoder


@contextmanager
def _in_place(backbone: Any, decoder: nn.Module) -> Iterator[None]:
    """Replace a backbone's decoder for the duration of a `with` block."""
    original = _decoder(backbone)
    backbone._model.mask_decoder = decoder
    try:
        yield
    finally:
        backbone._model.mask_decoder = original
