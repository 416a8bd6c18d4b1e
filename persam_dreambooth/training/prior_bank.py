"""A bank of fixed draws for the background prior: noise and timesteps for which the base model predicts only once."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from persam_dreambooth.training.config import OptimizationConfig
from persam_dreambooth.training.data.dataset import Batch
from persam_dreambooth.training.families import Family, Noised
from persam_dreambooth.training.families.loading import unwrapped


class PriorBank:
    """A few draws of latents, noise and timestep for each cached sample of a photo, with the base's predictions.

    A draw is seeded by the contents of the sample, its number and the run's seed. The base predicts for one sample
    alone when it is first drawn, so the prediction has the same bits in a resumed run, whatever the batches were.

    Args:
        draws: number of draws for each sample.
        seed: the run's.
    """

    def __init__(self, draws: int, seed: int) -> None:
        self.draws, self.seed = draws, seed
        self._predictions: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """Return the number of predictions that it holds."""
        return len(self._predictions)

    def draw(self, family: Family, batch: Batch, settings: OptimizationConfig) -> tuple[Noised, Tensor]:
        """Noise a batch, each photo with one of its draws, which the global random generator chooses.

        Class images, at the end of the batch, get fresh noise.

        Args:
            family: after `keep_base`, if all weights are trained.
            batch: of B photos, with `moments` and `class_prompt`.
            settings: of the noise.

        Returns:
            The noised batch, and the base model's prediction for the photos, (B, C, h, w).
        """
        assert batch.moments is not None, "TrainingConfig asks for cached latents"
        count, parts, predictions = len(batch.mask), list[Noised](), list[Tensor]()
        for number, chosen in enumerate(torch.randint(self.draws, (count,)).tolist()):
            sample = _row(batch, number)
            key = _key(sample, f"{self.seed} {chosen}")
            parts.append(_seeded(family, sample, settings, key))
            if key not in self._predictions:
                self._predictions[key] = _predict(family, parts[-1], sample).cpu()
            predictions.append(self._predictions[key].to(batch.moments.device))
        if len(batch.moments) > count:
            parts.append(family.add_noise(family.sample_latents(batch.moments[count:]), settings))
        return replace(_joined(parts), crop=batch.crop), torch.cat(predictions)


def _row(batch: Batch, number: int) -> Batch:
    """Return a batch of a single photo, with the class prompt as its prompt: all that the base's prediction needs."""
    assert batch.moments is not None and batch.class_prompt is not None, "TrainingConfig asks for a class prompt"
    own = slice(number, number + 1)
    return Batch(
        batch.photos[own],
        batch.mask[own],
        batch.weight[own],
        {name: value[own] for name, value in batch.class_prompt.items()},
        moments=batch.moments[own],
        crop=None if batch.crop is None else batch.crop[own],
    )


def _key(sample: Batch, words: str) -> str:
    """Return a hash of a photo's moments, crop and class prompt, and of a further string."""
    digest = hashlib.sha256(words.encode())
    tensors = {"moments": sample.moments, "crop": sample.crop} | sample.prompt
    for name, value in sorted(tensors.items()):
        if value is not None:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _seeded(family: Family, sample: Batch, settings: OptimizationConfig, key: str) -> Noised:
    """Draw latents, noise and timestep of one photo from a seed; the global random generators stay as they are."""
    assert sample.moments is not None
    device = sample.moments.device
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(int(key[:16], 16))
        return replace(family.add_noise(family.sample_latents(sample.moments), settings), crop=sample.crop)


def _predict(family: Family, noised: Noised, sample: Batch) -> Tensor:
    """Predict with the base, outside DDP, whose processes would wait for one another."""
    trained = family.trained()
    family.replace({name: unwrapped(part) for name, part in trained.items()})
    try:
        return family.predict_base(noised, sample.prompt)
    finally:
        family.replace(trained)


def _joined(parts: Sequence[Noised]) -> Noised:
    """Concatenate noised latents, without their crops."""
    weights = [part.weight for part in parts if part.weight is not None]
    return Noised(
        torch.cat([part.noisy for part in parts]),
        torch.cat([part.timesteps for part in parts]),
        torch.cat([part.target for part in parts]),
        torch.cat(weights) if weights else None,
    )
