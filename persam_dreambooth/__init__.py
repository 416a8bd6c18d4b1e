"""DreamBooth with masks that PerSAM finds from one photo and one mask.

    import persam_dreambooth as pd

The names below are the public API, described in docs/python-api.md. Each is imported when it is first used, so that
segmentation loads nothing of diffusers. Other modules may change without notice.
"""

import logging
import os
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from persam_dreambooth.errors import Stopped, UserError
    from persam_dreambooth.evaluation.generation.checkpoints import evaluate_checkpoints
    from persam_dreambooth.evaluation.generation.running import GenerationReport, evaluate_generation
    from persam_dreambooth.formats import Exported, Imported, export_masks, import_masks
    from persam_dreambooth.generated_folder import GeneratedFolder, generate_folder
    from persam_dreambooth.generation import Picture, generate, load_pipeline
    from persam_dreambooth.photos.files import find_photos, read_mask, read_photo
    from persam_dreambooth.photos.manifest import ManifestEntry
    from persam_dreambooth.preprocessing import SegmentationJob, segment_albums
    from persam_dreambooth.preprocessing.references import ReferenceFiles
    from persam_dreambooth.preprocessing.segment_folder import segment_folder
    from persam_dreambooth.segmentation import (
        INSID3,
        Agreement,
        CropSearch,
        Insid3Method,
        Insid3Sam,
        Method,
        PerSAM,
        Reference,
        SegGPT,
        SegGptMethod,
        Segmentation,
        Subject,
        TextPrompt,
        load_segmenter,
    )
    from persam_dreambooth.training.config import TrainingConfig
    from persam_dreambooth.training.loop import TrainingCallbacks
    from persam_dreambooth.training.main import TrainingResult, train
    from persam_dreambooth.training.output.kohya import convert_lora

__version__ = "0.1.0"

# By default MKL's results depend on the memory alignment of arrays on some processors (AMD's), so a resumed run would
# not end bit-identical to an uninterrupted one. MKL reads this at its first call, so torch may already be imported.
os.environ.setdefault("MKL_CBWR", "AUTO")

# On import, diffusers warns of every torchao but those that it knows, in three lines that concern no one here.
_OF_TORCHAO = re.compile(r"Unable to import `torchao` Tensor objects|<enum '(KernelPreference|ScaleCalculationMode)'>")
for _name in ("diffusers.quantizers.torchao.torchao_quantizer", "torch.utils._pytree"):
    logging.getLogger(_name).addFilter(lambda record: not _OF_TORCHAO.match(record.getMessage()))

_MODULES = {
    "errors": ("Stopped", "UserError"),
    "evaluation.generation.checkpoints": ("evaluate_checkpoints",),
    "evaluation.generation.running": ("GenerationReport", "evaluate_generation"),
    "formats": ("Exported", "Imported", "export_masks", "import_masks"),
    "generated_folder": ("GeneratedFolder", "generate_folder"),
    "generation": ("Picture", "generate", "load_pipeline"),
    "photos.files": ("find_photos", "read_mask", "read_photo"),
    "photos.manifest": ("ManifestEntry",),
    "preprocessing": ("SegmentationJob", "segment_albums"),
    "preprocessing.references": ("ReferenceFiles",),
    "preprocessing.segment_folder": ("segment_folder",),
    "segmentation": (
        *("INSID3", "Insid3Method", "Insid3Sam", "Method", "PerSAM", "Reference", "SegGPT", "SegGptMethod"),
        *("Segmentation", "Subject", "Agreement", "CropSearch", "TextPrompt", "load_segmenter"),
    ),
    "training.config": ("TrainingConfig",),
    "training.loop": ("TrainingCallbacks",),
    "training.main": ("TrainingResult", "train"),
    "training.output.kohya": ("convert_lora",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "INSID3",
    "Agreement",
    "CropSearch",
    "Exported",
    "GeneratedFolder",
    "GenerationReport",
    "Imported",
    "Insid3Method",
    "Insid3Sam",
    "ManifestEntry",
    "Method",
    "PerSAM",
    "Picture",
    "Reference",
    "ReferenceFiles",
    "SegGPT",
    "SegGptMethod",
    "Segmentation",
    "SegmentationJob",
    "Stopped",
    "Subject",
    "TextPrompt",
    "TrainingCallbacks",
    "TrainingConfig",
    "TrainingResult",
    "UserError",
    "__version__",
    "convert_lora",
    "evaluate_checkpoints",
    "evaluate_generation",
    "export_masks",
    "find_photos",
    "generate",
    "generate_folder",
    "import_masks",
    "load_pipeline",
    "load_segmenter",
    "read_mask",
    "read_photo",
    "segment_albums",
    "segment_folder",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
