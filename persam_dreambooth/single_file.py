"""Base models in a single file, as on Civitai and in the original releases: recognize them and load their parts.

Such a file has weights under the original names, but no configs and no tokenizers. These come from a diffusers
pipeline of the same kind, of which the weights are not needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file import load_single_file_sub_model
from diffusers.loaders.single_file_utils import (
    DIFFUSERS_DEFAULT_PIPELINE_PATHS,
    infer_diffusers_model_type,
    load_single_file_checkpoint,
)
from safetensors import safe_open
from torch import nn

from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.model_folder import check_available

PIPELINES = {
    "v1": "StableDiffusionPipeline",
    "v2": "StableDiffusionPipeline",
    "xl_base": "StableDiffusionXLPipeline",
    "flux-dev": "FluxPipeline",
    "flux-schnell": "FluxPipeline",
}
"""diffusers' pipeline for each kind of file that it tells apart by the weights."""
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
UNET = "model.diffusion_model.input_blocks.0.0.weight"
"""First layer of Stable Diffusion's UNet; checked because diffusers takes unknown files for Stable Diffusion 1."""
BEGINNINGS = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.t5xxl."),
}
"""Beginnings of the names of each part that a file may lack."""
PRECISIONS = ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F64", "I64", "I32")
"""safetensors' names of the types that are read; I64 and I32 are positions and counters."""
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of a pipeline that neither training nor generation uses."""


def is_single_file(name: str) -> bool:
    """Return whether a base model's name is that of a file, and not of a folder or a model on the hub."""
    path = Path(name)
    return path.is_file() or (path.suffix in (".safetensors", *PICKLES) and not path.is_dir())


@dataclass(frozen=True)
class SingleFile:
    """A base model in one file.

    Attributes:
        path: the file.
        pipeline: name of diffusers' pipeline class.
        config: folder or hub name of a pipeline of that class, for configs, tokenizers and missing parts.
        names: of all weights.
    """

    path: Path
    pipeline: str
    config: str
    names: frozenset[str]

    @classmethod
    def read(cls, name: str, config: str | None = None) -> Self:
        """Read a file's header, without its weights.

        Args:
            name: the file.
            config: folder or hub name of the pipeline for its configs; None is the original release on the hub.

        Raises:
            UserError: no such file, a pickle, no weights of a known base model, quantized weights; or a config that
                cannot be read or is another kind of model's.
        """
        path = Path(name)
        if path.suffix != ".safetensors":
            raise UserError(_no_safetensors(name, path))
        if not path.is_file():
            raise UserError(f"no base model at {name}: no such file; check the path")
        try:
            with safe_open(path, framework="pt") as file:
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a dict
                metadata = dict(file.metadata() or {})
        except Exception as error:  # safetensors and the system raise different exceptions for damage
            reason = first_line(error)[:200]
            raise UserError(f"{name} cannot be read ({reason}); download it again") from error
        _refuse_quantized(name, slices)
        kind = _kind(name, {key: torch.empty(piece.get_shape(), device="meta") for key, piece in slices.items()})
        source = config or DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
        found = cls(path, PIPELINES[kind], source, frozenset(slices))
        found._check_config(metadata, is_given=config is not None)
        return found

    def _check_config(self, metadata: Mapping[str, str], is_given: bool) -> None:
        """Refuse a config of another kind of model, or one that predicts something else than the file says."""
        said = f"--single_file_config {self.config}" if is_given else f"{self.config} (configs for {self.path})"
        check_available(self.config, f"--single_file_config for {self.path}")
        try:
            its = DiffusionPipeline.load_config(self.config)["_class_name"]
            scheduler = diffusers.DDPMScheduler.load_config(self.config, subfolder="scheduler")
        except Exception as error:  # no folder, no network, no JSON, no index: each has its own exception
            raise UserError(
                f"{said} cannot be read as a diffusers pipeline; give --single_file_config a folder or hub name of a "
                f"{self.pipeline}"
            ) from error
        if its != self.pipeline:
            raise UserError(
                f"{said} is a {its}, but {self.path} holds the weights of a {self.pipeline}; give one of that class"
            )
        known = {"v": "v_prediction", "epsilon": "epsilon"}.get(metadata.get("modelspec.prediction_type", ""))
        if "v_pred" in self.names:  # how models of SDXL's kind are marked
            known = "v_prediction"
        predicted = scheduler.get("prediction_type", "epsilon")
        if known and self.pipeline != "FluxPipeline" and predicted != known:
            raise UserError(
                f"{self.path} says that it predicts {known}, but {said} predicts {predicted}; give "
                "--single_file_config a pipeline that predicts the same as the file"
            )

    def holds(self, part: str) -> bool:
        """Return whether the weights of a pipeline's part are in the file."""
        return part not in BEGINNINGS or any(name.startswith(BEGINNINGS[part]) for name in self.names)

    def load(self, kind: Any, part: str) -> Any:
        """Load one part that the file holds, in float32.

        Args:
            kind: its class, a diffusers or transformers model.
            part: its name in the pipeline.

        Raises:
            UserError: some of its weights are not in the file.
            Exception: from diffusers, for weights that do not fit the config.
        """
        try:
            model = load_single_file_sub_model(
                library_name=kind.__module__.partition(".")[0],
                class_name=kind.__name__,
                name=part,
                checkpoint=load_single_file_checkpoint(str(self.path)),
                pipelines=diffusers.pipelines,
                is_pipeline_module=False,
                cached_model_config_path=self.config,
                torch_dtype=torch.float32,
            )
            complete = not any(weight.is_meta for weight in model.parameters())
        except NotImplementedError:  # raised by torch if weights without values (on the meta device) are converted
            complete = False
        if not complete:
            raise UserError(
                f"the {part} of {self.path} lacks some of the weights that it has in {self.config}; download the file "
                "again, or give --single_file_config a pipeline of the same sizes"
            )
        return model

    def load_pipeline(self, **parts: Any) -> Any:
        """Load the file as diffusers' pipeline, without a safety checker.

        Args:
            parts: models or settings that replace the pipeline's own.
        """
        kind = getattr(diffusers, self.pipeline)
        for name, entry in DiffusionPipeline.load_config(self.config).items():
            if name in (*parts, *LEFT_OUT) or not isinstance(entry, list | tuple):
                continue
            if entry[0] not in ("diffusers", "transformers"):
                continue
            part = getattr(import_module(entry[0]), entry[1])
            if isinstance(part, type) and issubclass(part, nn.Module) and self.holds(name):
                parts[name] = self.load(part, name)
        expected, optional = kind._get_signature_keys(kind)
        unchecked = {name: False for name in optional if name == "requires_safety_checker"}
        parts = dict.fromkeys(set(expected) & set(LEFT_OUT)) | unchecked | parts
        return kind.from_pretrained(self.config, trust_remote_code=False, **parts)


def _no_safetensors(name: str, path: Path) -> str:
    if path.suffix in PICKLES:
        return (
            f"{name} is a pickle, which can run code when it is read, and is refused; give the same model as a "
            ".safetensors file, or the folder or hub name of a diffusers pipeline"
        )
    return (
        f"{name} is a file, but not a .safetensors file; give one that holds a base model, the folder of a diffusers "
        "pipeline, or a hub name"
    )


def _kind(name: str, shapes: dict[str, Any]) -> str:
    """Return which of `PIPELINES` the weights are, from their names and shapes."""
    try:
        kind = infer_diffusers_model_type(shapes)
    except Exception:  # it fails if layers are missing that it takes for granted
        kind = "unknown"
    if kind in ("v1", "v2") and UNET not in shapes:
        kind = "unknown"
    if kind in PIPELINES:
        return kind
    what = "unknown weights" if kind == "unknown" else f"weights of the kind {kind}"
    example = f", such as {min(shapes)}" if shapes else ""
    raise UserError(
        f"{name} holds {what}{example}; give a file in the layout of the original release of Stable Diffusion 1.x, "
        "2.x, XL or Flux.1, or the folder or hub name of a diffusers pipeline"
    )


def _refuse_quantized(name: str, slices: Mapping[str, Any]) -> None:
    """Refuse weights that are numbers only together with scales stored beside them."""
    for key, piece in slices.items():
        if piece.get_dtype() not in PRECISIONS or key.endswith((".scale_weight", ".weight_scale", "scaled_fp8")):
            raise UserError(
                f"{name} holds quantized weights ({key}, {piece.get_dtype()}); give the same model in fp32, fp16 or "
                "bf16"
            )
