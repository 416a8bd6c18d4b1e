"""Train tinyworld's denoiser on latents and captions, and assemble the Stable Diffusion pipeline.

    python experiments/tinyworld/train_unet.py

Needs `models/clip` and `models/stable-diffusion/vae`, and writes all of `models/stable-diffusion`. `--go_on --seed 1`
continues training from those weights; the card states the sum of both trainings.
"""

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import compute_snr
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from cards import load_fitted, save_card
from corpus import Corpus, batches
from fitting import fit
from loading import load
from models import CLIP, DIFFUSION, noise_schedule, unet
from persam_dreambooth.torch_utils import emulates_bfloat16
from persam_dreambooth.training.losses import masked_mse, min_snr_weight
from training_flags import TrainingFlags, read_flags

PICTURES = 32000
SNR_GAMMA = 5.0
UNCONDITIONAL = 0.1
"""Share of pictures whose caption is left empty, for classifier-free guidance."""


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, corpus: Corpus, flags: TrainingFlags) -> Tensor:
    """Return the scaled means of all latents, (N, 4, h, w) float16; they are kept in the work folder."""
    stored = flags.work / "latents.npy"
    if not stored.exists():
        vae = vae.to(flags.device)
        parts = []
        for index in tqdm(torch.arange(len(corpus)).split(64), "encoding pictures"):
            with torch.autocast(flags.device.type, torch.bfloat16, enabled=not emulates_bfloat16(flags.device)):
                mean = vae.encode(corpus.pixels(index).to(flags.device)).latent_dist.mean
            parts.append((mean.float() * vae.config.scaling_factor).half().cpu())
        np.save(stored, torch.cat(parts).numpy())
    return torch.from_numpy(np.load(stored))


@torch.no_grad()
def encode_captions(captions: list[str]) -> Tensor:
    """Return the embeddings of the N captions and, last, of the empty caption, (N + 1, tokens, width) float16."""
    words, encoder = CLIPTokenizer.from_pretrained(CLIP), CLIPTextModel.from_pretrained(CLIP).float()
    parts = []
    texts = [*captions, ""]
    for start in tqdm(range(0, len(texts), 256), "encoding captions"):
        tokens = words(texts[start : start + 256], padding="max_length", truncation=True, return_tensors="pt")
        parts.append(encoder(tokens.input_ids)[0].half())
    return torch.cat(parts)


def train(flags: TrainingFlags) -> None:
    """Train the model, assemble and save the pipeline, save the training record."""
    torch.manual_seed(flags.seed)
    model = load(UNet2DConditionModel, DIFFUSION / "unet").float() if flags.go_on else unet()
    earlier = load_fitted(DIFFUSION / "unet") if flags.go_on else None
    model = model.to(flags.device, memory_format=torch.channels_last)
    if flags.device.type == "cpu":
        model.set_attn_processor(AttnProcessor())  # torch's fused attention is slower backwards on a CPU
    vae = AutoencoderKL.from_pretrained(DIFFUSION / "vae").float()
    corpus = flags.corpus("facing-right", PICTURES, seed=1, mirrored=0.0)
    latents = encode_latents(vae, corpus, flags)
    embeddings = encode_captions([fact["caption"] for fact in corpus.facts])
    schedule = noise_schedule()
    denoise = torch.compile(model) if flags.compile else model
    order = batches(len(corpus), flags.batch_size, flags.seed, flags.first_step("unet"))

    def loss_of(step: int) -> Tensor:
        index = next(order)
        draw = torch.Generator().manual_seed(flags.seed * 1_000_003 + step)
        clean = latents[index].float()
        noise = torch.randn(clean.shape, generator=draw)
        timesteps = torch.randint(0, len(schedule), (len(index),), generator=draw)
        said = torch.where(torch.rand(len(index), generator=draw) < UNCONDITIONAL, len(corpus), index)
        noisy = schedule.add_noise(clean, noise, timesteps).to(flags.device, memory_format=torch.channels_last)
        prediction = denoise(noisy, timesteps.to(flags.device), embeddings[said].float().to(flags.device)).sample
        weight = min_snr_weight(compute_snr(schedule, timesteps), SNR_GAMMA, "epsilon")
        return masked_mse(prediction, noise.to(flags.device), sample_weight=weight.to(flags.device))

    fitted = fit(model, loss_of, flags.steps, flags.batch_size, flags.learning_rate, flags.state("unet"))
    fitted = earlier + fitted if earlier else fitted
    for part in (vae, model):
        part.register_to_config(_name_or_path="")  # otherwise the path that it was loaded from is saved
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(CLIP),
        tokenizer=CLIPTokenizer.from_pretrained(CLIP),
        unet=model,
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(DIFFUSION)
    save_card(DIFFUSION / "unet", fitted)


if __name__ == "__main__":
    train(read_flags(__doc__, steps=2600, batch_size=48, learning_rate=1e-3))
