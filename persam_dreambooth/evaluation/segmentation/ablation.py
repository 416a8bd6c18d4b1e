"""The paper's ablations on PerSeg: tables 4 (techniques), 5 (what is fitted) and 6 (mask or box)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from persam_dreambooth.evaluation.segmentation import tuning
from persam_dreambooth.evaluation.segmentation.methods import persam_method
from persam_dreambooth.evaluation.segmentation.running import EvaluatedMethod
from persam_dreambooth.segmentation import Backbone, Method
from persam_dreambooth.segmentation.fidelity import Fidelity

TABLES: Final[dict[str, dict[str, str]]] = {
    "4": {
        "positive-prior": "positive location prior",
        "negative-prior": "+ negative location prior",
        "refinement": "+ cascaded post-refinement",
        "guided-attention": "+ target-guided attention",
        "persam": "+ target-semantic prompting = PerSAM",
        "persam-f": "mask weights = PerSAM-F",
    },
    "5": {
        "thirds": "nothing: one third each",
        "prompt-tokens": "prompt tuning of the decoder",
        "adapters": "adapters in the decoder",
        "lora": "LoRA in the decoder",
        "three-weights": "three free mask weights",
        "persam-f": "two mask weights = PerSAM-F",
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
    """Table 4: each method adds one technique to the previous one; PerSAM-F is as its authors run it."""
    bare = Method(fidelity, negative_prior=False, refinement=False, guided_attention=False, semantic_prompting=False)
    negative = replace(bare, negative_prior=True)
    refined = replace(negative, refinement=True)
    return {
        "positive-prior": bare,
        "negative-prior": negative,
        "refinement": refined,
        "guided-attention": replace(refined, guided_attention=True),
        "persam": Method(fidelity),
        "persam-f": Method.persam_f(fidelity),
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
        "prompt-tokens": tuning.prompt_tokens,
        "adapters": tuning.adapters,
        "lora": tuning.lora,
    }
    makers: dict[str, Callable[[], EvaluatedMethod]] = {
        "three-weights": lambda: tuning.three_weights(backbone, fitted, steps),
        "persam-box": lambda: persam_method(backbone, methods["persam"], box=True),
        "persam-f-box": lambda: persam_method(backbone, fitted, box=True),
    }
    built = {name: persam_method(backbone, method) for name, method in methods.items() if name in names}
    built |= {
        name: tuning.tuned_decoder(backbone, fitted, tuner, steps) for name, tuner in tuners.items() if name in names
    }
    return built | {name: make() for name, make in makers.items() if name in names}
