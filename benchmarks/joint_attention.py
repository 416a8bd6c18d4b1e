"""Cost of the attention loss in a transformer with joint attention: steps with and without it, alternated.

    OMP_NUM_THREADS=1 python benchmarks/joint_attention.py --layers 12 --heads 12
    OMP_NUM_THREADS=1 python benchmarks/joint_attention.py --dtype bfloat16     # Stable Diffusion 3's own size

Each step predicts, takes the loss of the flow and, every other time, the loss of the attention to two words of the
prompt, and updates LoRA adapters of rank 4; weights, latents and mask are random. Both kinds of step run in one
process, one after the other, since a busy machine then slows both. Compared are CPU seconds.
"""

import argparse
import time

import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig
from torch import Tensor
from tqdm import tqdm

from persam_dreambooth.training.families.joint_attention import LAYERS, recorded
from persam_dreambooth.training.losses import masked_mse

WORDS = (3, 80)
"""The identifier's token in CLIP's part of the prompt and in T5's."""
LENGTH = 77 + 77


def build(layers: int, heads: int, dtype: torch.dtype) -> SD3Transformer2DModel:
    """Return a Stable Diffusion 3 with random weights and LoRA adapters of rank 4."""
    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        num_layers=layers,
        num_attention_heads=heads,
        caption_projection_dim=64 * heads,
        pos_embed_max_size=192,
    ).to(dtype)
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=4, target_modules=["attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0"]))
    return model


def step(model: SD3Transformer2DModel, given: dict[str, Tensor], mask: Tensor, attention_loss: bool) -> float:
    """Take one step's loss and its gradient; return its CPU seconds."""
    begun = time.process_time()
    if not attention_loss:
        model(**given, return_dict=False)[0].float().square().mean().backward()
        return time.process_time() - begun
    with recorded([block.attn for block in model.transformer_blocks], text_first=False) as seen:
        prediction = model(**given, return_dict=False)[0]
    maps = seen.maps([[WORDS]], (given["hidden_states"].shape[-2], given["hidden_states"].shape[-1]))
    (prediction.float().square().mean() + 0.01 * masked_mse(maps, mask)).backward()
    return time.process_time() - begun


def main() -> None:
    """Alternate both kinds of step, and print their CPU seconds and the quotient."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24, help="joint attention layers (24, as Stable Diffusion 3)")
    parser.add_argument("--heads", type=int, default=24, help="heads of 64 channels (24)")
    parser.add_argument("--side", type=int, default=512, help="pixels of the picture's side (512)")
    parser.add_argument("--rounds", type=int, default=6, help="steps of each kind (6), after one of each to warm up")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of weights and inputs")
    flags = parser.parse_args()
    dtype = getattr(torch, flags.dtype)
    model, cells = build(flags.layers, flags.heads, dtype), flags.side // 8
    given = {
        "hidden_states": torch.randn(1, 16, cells, cells, dtype=dtype),
        "encoder_hidden_states": torch.randn(1, LENGTH, 4096, dtype=dtype),
        "pooled_projections": torch.randn(1, 2048, dtype=dtype),
        "timestep": torch.tensor([500.0], dtype=dtype),
    }
    mask = (torch.rand(1, 1, cells // 2, cells // 2) > 0.7).float()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-4)
    costs: dict[bool, list[float]] = {False: [], True: []}
    for number in tqdm(range(2 * flags.rounds + 2), "steps"):
        spent = step(model, given, mask, attention_loss=number % 2 == 1)
        optimizer.step()
        optimizer.zero_grad()
        if number > 1:
            costs[number % 2 == 1].append(spent)
    plain, with_loss = (torch.tensor(costs[kind]) for kind in (False, True))
    low, middle, high = (plain / with_loss).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    print(
        f"{flags.layers} layers ({LAYERS} recorded), {flags.heads} heads, {flags.side} pixels, {flags.dtype}, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}: {plain.median():.2f} s without, "
        f"{with_loss.median():.2f} s with the attention loss; speed {middle:.3f} x (quartiles {low:.3f} to {high:.3f})"
    )


if __name__ == "__main__":
    main()
