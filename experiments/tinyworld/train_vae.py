"""Train tinyworld's autoencoder.

    python experiments/tinyworld/train_vae.py

Writes `models/stable-diffusion/vae` (a diffusers AutoencoderKL). `--go_on --seed 1` continues training from those
weights.
"""

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import avg_pool2d, l1_loss, mse_loss

from cards import load_fitted, save_card
from corpus import batches
from fitting import fit
from loading import load
from models import DIFFUSION, autoencoder
from training_flags import TrainingFlags, read_flags

PICTURES = 32000
KL_WEIGHT = 2e-7
"""Weight of the latents' KL divergence from a normal distribution, relative to the pixels' error. With 1e-5, three of
the eight channels carry nothing."""
CELL = 4
"""Side of a latent cell in pixels."""


def train(flags: TrainingFlags) -> None:
    """Train the model, set the scaling factor that gives latents a standard deviation of 1, save."""
    torch.manual_seed(flags.seed)
    model = load(AutoencoderKL, DIFFUSION / "vae").float() if flags.go_on else autoencoder()
    earlier = load_fitted(DIFFUSION / "vae") if flags.go_on else None
    model = model.to(flags.device, memory_format=torch.channels_last)
    corpus = flags.corpus("pictures", PICTURES, seed=1)
    order = batches(len(corpus), flags.batch_size, flags.seed, flags.first_step("vae"))

    def loss_of(step: int) -> Tensor:
        pixels = corpus.pixels(next(order)).to(flags.device, memory_format=torch.channels_last)
        latents = model.encode(pixels).latent_dist
        noise = torch.randn(latents.mean.shape, generator=torch.Generator().manual_seed(step)).to(flags.device)
        decoded = model.decode(latents.mean + latents.std * noise).sample
        edges = sum(l1_loss(decoded.diff(dim=axis), pixels.diff(dim=axis)) for axis in (2, 3))
        # Absolute errors alone make small bright objects brown.
        squared = mse_loss(decoded, pixels) + mse_loss(avg_pool2d(decoded, CELL), avg_pool2d(pixels, CELL))
        return l1_loss(decoded, pixels) + 0.5 * edges + 8 * squared + KL_WEIGHT * latents.kl().mean()

    fitted = fit(model, loss_of, flags.steps, flags.batch_size, flags.learning_rate, flags.state("vae"))
    fitted = earlier + fitted if earlier else fitted
    with torch.no_grad():
        pixels = corpus.pixels(torch.arange(512)).to(flags.device)
        latents = torch.cat([model.encode(some).latent_dist.mean for some in pixels.split(64)])
    model.register_to_config(scaling_factor=float(1 / latents.std()))
    model.half().save_pretrained(DIFFUSION / "vae")
    save_card(DIFFUSION / "vae", fitted)


if __name__ == "__main__":
    train(read_flags(__doc__, steps=2400, batch_size=16, learning_rate=2e-3))
