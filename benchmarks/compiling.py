"""First step and step time of a UNet or transformer: not compiled, compiled by blocks, or compiled whole.

    python benchmarks/compiling.py unet
    python benchmarks/compiling.py flux blocks

Each row trains LoRA adapters of a model with random weights for a few steps in its own process, with an empty compiler
cache. The first step compiles, and so does the first prediction without adapters, which the background prior uses.
CPU seconds include the compiler's own processes. They are more reliable than wall time if other programs are running.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from statistics import median

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn

from persam_dreambooth.training.families.loading import compile_blocks

HOW = ("not compiled", "blocks", "whole")
STEPS = 8


def spent() -> float:
    """Return the CPU seconds of this process and of those that it waited for."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in used)


def build(kind: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return Stable Diffusion 1.5's UNet, a quarter as wide, or a Flux of 2 and 4 layers, and inputs at 256 pixels."""
    torch.manual_seed(0)
    if kind == "unet":
        widths = (80, 160, 320, 320)
        model: nn.Module = UNet2DConditionModel(
            sample_size=32,
            block_out_channels=widths,
            cross_attention_dim=192,
            attention_head_dim=8,
            norm_num_groups=16,
        )
        given = {"sample": torch.randn(1, 4, 32, 32), "encoder_hidden_states": torch.randn(1, 77, 192)}
        return model, given | {"timestep": torch.tensor([500])}
    model = FluxTransformer2DModel(
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=64,
        num_attention_heads=8,
        joint_attention_dim=512,
        pooled_projection_dim=128,
        axes_dims_rope=(8, 28, 28),
        guidance_embeds=True,
    )
    given = {"hidden_states": torch.randn(1, 256, 64), "encoder_hidden_states": torch.randn(1, 77, 512)}
    given |= {"pooled_projections": torch.randn(1, 128), "img_ids": torch.zeros(256, 3), "txt_ids": torch.zeros(77, 3)}
    return model, given | {"timestep": torch.tensor([0.5]), "guidance": torch.ones(1)}


def run(kind: str, how: str) -> None:
    """Train, and print a row of the table."""
    model, given = build(kind)
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=4, target_modules=["to_k", "to_q", "to_v"]))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, fused=True)
    called = model
    if how == "blocks":
        compile_blocks(model)
    elif how == "whole":
        called = torch.compile(model)
    costs, walls = [], []
    for _ in range(STEPS):
        begun, clock = spent(), time.perf_counter()
        loss = called(**given, return_dict=False)[0].square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        costs.append(spent() - begun)
        walls.append(time.perf_counter() - clock)
    model.disable_adapters()
    begun = spent()
    with torch.no_grad():
        called(**given, return_dict=False)
    base = spent() - begun
    cells = f"{costs[0]:.1f} s | {base:.1f} s | {median(costs[2:]):.3f} s | {min(costs[2:]):.3f} s"
    print(f"| {kind}, {how} | {cells} | {walls[0]:.0f} s | {loss.item():.6f} |", flush=True)


def main() -> None:
    """Measure each row in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["unet", "flux"])
    parser.add_argument("how", nargs="?", choices=HOW, help="one row only")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        run(flags.kind, flags.how)
        return
    print(f"torch {torch.__version__}, {os.environ.get('OMP_NUM_THREADS', 'all')} threads; CPU seconds\n")
    print("| | first step | first without adapters | step, median | lowest | first, wall time | last loss |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for how in [flags.how] if flags.how else HOW:
        with tempfile.TemporaryDirectory() as cache:
            environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
            subprocess.run([sys.executable, __file__, flags.kind, how, "--child"], env=environment, check=True)


if __name__ == "__main__":
    main()
