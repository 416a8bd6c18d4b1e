"""Train tinyworld's autoencoder.

    python experiments/tinyworld/train_vae.py

Writes `models/stable-diffusion/vae` (a diffusers AutoencoderKL).
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, l1_loss, mse_loss

from cards import save_card
from corpus import batches
from fitting import fit
from models import DIFFUSION, autoencoder
from training_flags import TrainingFlags, read_flags

PICTURES = 32000
KL_WEIGHT = 1e-5
"""Weight of the latents' KL divergence from a normal distribution, relative to the pixels' error."""
COLOUR_STEPS = 900
"""Steps of the second phase. With absolute errors alone, the outlines are right but small bright objects are brown."""
CELL = 4
"""Side of a latent cell in pixels."""


def train(flags: TrainingFlags) -> None:
    """Train the model, set the scaling factor that gives latents a standard deviation of 1, save."""
    torch.manual_seed(flags.seed)
    model = autoencoder().to(flags.device, memory_format=torch.channels_last)
    corpus = flags.corpus("pictures", PICTURES, seed=1)
    order = batches(
        len(corpus), flags.batch_size, flags.seed, flags.first_step("vae") + flags.first_step("vae-colours")
    )

    def decode(step: int) -> tuple[Tensor, Tensor, Tensor]:
        pixels = corpus.pixels(next(order)).to(flags.device, memory_format=torch.channels_last)
        latents = model.encode(pixels).latent_dist
        noise = torch.randn(latents.mean.shape, generator=torch.Generator().manual_seed(step)).to(flags.device)
        decoded = model.decode(latents.mean + latents.std * noise).sample
        return decoded, pixels, l1_loss(decoded, pixels) + KL_WEIGHT * latents.kl().mean()

    def outlines(step: int) -> Tensor:
        decoded, pixels, loss = decode(step)
        return loss + sum(l1_loss(decoded.diff(dim=axis), pixels.diff(dim=axis)) for axis in (2, 3))

    def colours(step: int) -> Tensor:
        decoded, pixels, loss = decode(step + flags.steps)
        coarse = mse_loss(avg_pool2d(decoded, CELL), avg_pool2d(pixels, CELL))
        edges = sum(l1_loss(decoded.diff(dim=axis), pixels.diff(dim=axis)) for axis in (2, 3))
        return loss + 8 * (coarse + mse_loss(decoded, pixels)) + 0.5 * edges

    fitted = fit(model, outlines, flags.steps, flags.batch_size, flags.learning_rate, flags.state("vae"))
    second = flags.state("vae-colours")
    fitted += fit(model, colours, COLOUR_STEPS, flags.batch_size, flags.learning_rate, second, decay=0.995)
    with torch.no_grad():
        pixels = corpus.pixels(torch.arange(512)).to(flags.device)
        latents = torch.cat([model.encode(some).latent_dist.mean for some in pixels.split(64)])
    model.register_to_config(scaling_factor=float(1 / latents.std()))
    model.half().save_pretrained(DIFFUSION / "vae")
    save_card(DIFFUSION / "vae", fitted)


if __name__ == "__main__":
    train(read_flags(__doc__, steps=1600, batch_size=16, learning_rate=2e-3))
