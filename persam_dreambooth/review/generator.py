"""Generate pictures with a run's model, at the page's request."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from persam_dreambooth import generated_folder, generation
from persam_dreambooth.errors import UserError
from persam_dreambooth.review.jobs import Background
from persam_dreambooth.review.runs import GENERATED

MOST_PICTURES = 16


class Generator(Background):
    """Generates pictures with a run's model, in the background, one request at a time.

    Args:
        device: None uses the accelerator if there is one.
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self._device = device
        self._loaded: tuple[Path, Any] | None = None
        self.done, self.wanted = 0, 0

    def start(self, run: Path, prompt: str, num_images: int, seed: int, **options: Any) -> None:
        """Start generating pictures of a prompt into a new folder of the run.

        Raises:
            UserError: another request is running, or this one is invalid.
        """
        self.begin(
            lambda: self._prepared(run, prompt, num_images, seed, options),
            "images are already being generated; wait until they are finished",
        )

    def _prepared(
        self, run: Path, prompt: str, num_images: int, seed: int, options: dict[str, Any]
    ) -> Callable[[], None]:
        if not prompt.strip():
            raise UserError('no prompt; write one, such as "a sks dog in the jungle"')
        if not 1 <= num_images <= MOST_PICTURES or not 1 <= options.get("num_inference_steps", 1) <= 1000:
            raise UserError(f"choose 1 to {MOST_PICTURES} images of 1 to 1000 steps; no more can be generated at once")
        if not -(2**63) <= seed < 2**63 - MOST_PICTURES:
            raise UserError(f"the seed {seed} must lie in [-2^63, 2^63 - {MOST_PICTURES})")
        self.done, self.wanted = 0, num_images
        return lambda: self._draw(run, prompt, num_images, seed, options)

    def _draw(self, run: Path, prompt: str, num_images: int, seed: int, options: dict[str, Any]) -> None:
        if self._loaded is None or self._loaded[0] != run:
            self._loaded = None  # two models at once may not fit
            self._loaded = run, generation.load_pipeline(str(run), device=self._device, dtype=torch.float32)
        folder = next(path for number in range(1, 10**6) if not (path := run / GENERATED / f"{number:03d}").exists())
        paths = generated_folder.picture_paths(folder, [prompt], num_images, seed)

        def keep(picture: generation.Picture) -> None:
            generated_folder.save_picture(picture, paths[picture.prompt, picture.seed], run.name, options)
            self.done += 1

        pictures = generation.generate(self._loaded[1], [prompt], num_images, seed, keep, **options)
        generated_folder.save_grid(pictures, num_images, folder)
