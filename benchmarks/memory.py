"""Memory of LoRA training at the real models' sizes, by setting, with random weights, so nothing is downloaded.

    python benchmarks/memory.py                    # both tables
    python benchmarks/memory.py --only sdxl        # only rows with this in their titles
    python benchmarks/memory.py --estimate         # only what is counted, in a few seconds

The first table is measured: the peak memory of one step (forward, backward, optimizer) on this machine's CPU, each row
in its own process, above what Python and its libraries take. A GPU's kernels need other scratch memory, so these
are no measurements of a GPU. The second table is estimated: weights, gradients and optimizer states from parameter
counts of models without storage (torch's meta device), by the same function as `--dry_run`; activations are not in it.
Prompts and photos are encoded before training (`--pre_compute_text_embeddings --cache_latents`) in all rows.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL
from diffusers.utils import logging
from torch import Tensor, nn

from persam_dreambooth.training import memory
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data.dataset import Batch
from persam_dreambooth.training.families import FAMILIES, Family, quantized
from persam_dreambooth.training.objective import training_loss

SDXL_UNET = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
}
SD3 = {"sample_size": 128, "joint_attention_dim": 4096, "qk_norm": "rms_norm"}
MEDIUM = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384}
LARGE = {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "pos_embed_max_size": 192}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    # Pipeline and the published config of its denoiser, as far as it differs from the defaults of diffusers' class.
    "SD 1.5": ("StableDiffusionPipeline", {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}),
    "SDXL": ("StableDiffusionXLPipeline", SDXL_UNET),
    "SD 3.5 medium": ("StableDiffusion3Pipeline", SD3 | MEDIUM | {"dual_attention_layers": tuple(range(13))}),
    "SD 3.5 large": ("StableDiffusion3Pipeline", SD3 | LARGE),
    "Lumina 2": ("Lumina2Pipeline", {}),
    "Z-Image": ("ZImagePipeline", {}),
    "Flux.1": ("FluxPipeline", {"guidance_embeds": True}),
    "Krea 2": ("Krea2Pipeline", {}),
    "Qwen-Image": ("QwenImagePipeline", {}),
    "Flux.2": ("Flux2Pipeline", {}),
}


class Row(NamedTuple):
    """A setting that is measured."""

    model: str
    side: int
    precision: str = "no"
    checkpointing: bool = False
    quantize: str | None = None
    prior: bool = False

    @property
    def title(self) -> str:
        """Its flags."""
        words = [f"{self.model}, {self.side} pixels", {"no": "float32", "bf16": "bf16"}[self.precision]]
        words += [f"--quantize {self.quantize}"] if self.quantize else []
        words += ["--gradient_checkpointing"] if self.checkpointing else []
        return ", ".join(words + (["background prior"] if self.prior else []))


ROWS = [
    Row("SD 1.5", 512),
    Row("SD 1.5", 512, checkpointing=True),
    Row("SD 1.5", 512, "bf16"),
    Row("SD 1.5", 512, "bf16", checkpointing=True),
    Row("SD 1.5", 512, "bf16", checkpointing=True, prior=True),
    Row("SD 1.5", 512, "bf16", checkpointing=True, quantize="int8"),
    Row("SDXL", 512, "bf16", checkpointing=True),
    Row("SDXL", 512, "bf16", quantize="int8"),
    Row("SDXL", 512, "bf16", checkpointing=True, quantize="int8"),
    Row("SDXL", 512, "bf16", checkpointing=True, quantize="fp8"),
]
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}


def configure(row: Row) -> TrainingConfig:
    """Return the settings of a row."""
    prior = {"class_prompt": "a dog", "background_prior_weight": 1.0} if row.prior else {}
    return TrainingConfig(
        pretrained_model_name_or_path="random",
        instance_data_dir="photos",
        instance_mask_dir="masks",
        instance_prompt="a sks dog",
        use_lora=True,
        quantize=row.quantize,
        gradient_checkpointing=row.checkpointing,
        cache_latents=True,
        pre_compute_text_embeddings=True,
        **prior,
    )


def build_family(row: Row, config: TrainingConfig, device: str) -> Family:
    """Build a family around a denoiser with constant weights, or on the meta device without any."""
    pipeline, settings = MODELS[row.model]
    kind = FAMILIES[pipeline]
    with torch.device("meta"):
        denoiser = kind.denoiser[1](**settings)
    vae = AutoencoderKL(latent_channels=4)  # a small one, of which only the config is used
    given = quantized.settings(config.model, DTYPES[row.precision])
    for layer in denoiser.modules():
        _fill(layer, device, DTYPES[row.precision], given)
    denoiser.is_quantized = bool(given)
    parts = dict.fromkeys([*kind.encoders, *(name.replace("text_encoder", "tokenizer") for name in kind.encoders)])
    schedule = kind.scheduler_class()
    family = kind(config.model, **parts, vae=vae, scheduler=schedule, **{kind.denoiser[0]: denoiser})
    family.place(torch.device(device), DTYPES[row.precision])
    return family


def _fill(layer: nn.Module, device: str, dtype: torch.dtype, given: dict[str, Any]) -> None:
    """Give a layer's own weights storage and a constant value, then quantize them as `from_pretrained` would."""
    own = list(layer.parameters(recurse=False)) + list(layer.buffers(recurse=False))
    if not own:
        return
    layer.to(dtype).to_empty(device=device, recurse=False)
    for tensor in [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]:
        tensor.data.fill_(0.01)
    if given and isinstance(layer, nn.Linear):
        from torchao.quantization import quantize_

        quantize_(layer, given["quantization_config"].quant_type)
        quantized.keep_packed(layer)


def batch_of(row: Row, family: Family) -> Batch:
    """Return a batch of one photo, already encoded."""
    width = MODELS[row.model][1]["cross_attention_dim"]
    prompt = {"embeds": torch.rand(1, 77, width), "pooled": torch.rand(1, 1280)}
    cells = row.side // 8
    return Batch(
        photos=["random"],
        mask=torch.ones(1, 1, row.side, row.side),
        weight=torch.ones(1),
        prompt=prompt,
        moments=torch.rand(1, 8, cells, cells),
        crop=torch.tensor([[row.side, row.side, 0, 0, row.side, row.side]]),
        class_prompt=prompt,
    )


def measure(row: Row) -> dict[str, float]:
    """Take one step; return its seconds and the peak memory in GB above that of the libraries."""
    if row.quantize:
        import torchao.quantization  # noqa: F401 - counts among the libraries
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = configure(row)
    family, dtype = build_family(row, config, "cpu"), DTYPES[row.precision]
    batch = batch_of(row, family)
    trained = [weight for part in family.trained().values() for weight in part.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    for part in family.trained().values():
        part.train()
    start = time.perf_counter()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss, _ = training_loss(family, batch, config)
    loss.backward()
    optimizer.step()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    counted = sum(memory.terms(family, config).values())
    return {"seconds": seconds, "peak": peak * 1024 / 1e9, "counted": counted / 1e9}


def estimate(model: str, quantize: str | None, precision: str = "bf16") -> float:
    """Return GB of weights, gradients and optimizer states of a LoRA of rank 4, counted without storage."""
    row = Row(model, 1024, precision, quantize=quantize)
    config = configure(row)
    return sum(memory.terms(build_family(row, config, "meta"), config).values()) / 1e9


def linear_share(model: str) -> float:
    """Return the share of the denoiser's weights that is in linear layers, which are what is quantized."""
    pipeline, settings = MODELS[model]
    with torch.device("meta"):
        denoiser: nn.Module = FAMILIES[pipeline].denoiser[1](**settings)
    linear = sum(layer.weight.numel() for layer in denoiser.modules() if isinstance(layer, nn.Linear))
    return linear / sum(map(Tensor.numel, denoiser.parameters()))


def print_measured(only: str) -> None:
    """Measure the rows, each in its own process."""
    print(
        "| measured on a CPU, LoRA rank 4, batch 1 | peak GB | of it counted | s/step |\n| --- | ---: | ---: | ---: |"
    )
    for number, row in enumerate(ROWS):
        if only.lower() not in row.title.lower():
            continue
        done = subprocess.run([sys.executable, __file__, "--row", str(number)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{row.title} failed: {done.stderr[-3000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"| {row.title} | {found['peak']:.1f} | {found['counted']:.1f} | {found['seconds']:.0f} |", flush=True)


def print_estimated() -> None:
    """Count all models' memory."""
    print("| estimated from counts, without activations | float32 | bf16 | int8, fp8 | in linear layers |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for model in MODELS:
        sizes = estimate(model, None, "no"), estimate(model, None), estimate(model, "int8")
        cells = " | ".join(f"{size:.1f} GB" for size in sizes)
        print(f"| {model} | {cells} | {linear_share(model):.0%} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="measure only rows with this in their titles")
    parser.add_argument("--estimate", action="store_true", help="measure nothing")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    logging.set_verbosity_error()
    if flags.row is not None:
        print(json.dumps(measure(ROWS[flags.row])))
        return
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    if not flags.estimate:
        print_measured(flags.only)
        print()
    print_estimated()


if __name__ == "__main__":
    main()
