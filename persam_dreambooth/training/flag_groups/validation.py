"""Flags of the pictures that are generated during training."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import Flags, flag
from persam_dreambooth.text_files import read_lines


@dataclass
class ValidationConfig(Flags):
    """Pictures generated during training, to watch it learn."""

    _argument_group_name: ClassVar[str] = "validation"

    validation_prompt: str | None = flag(
        None,
        "prompt of the validation images; without it and --validation_prompts_file none are generated",
    )
    validation_prompts_file: str | None = flag(
        None,
        "text file with more prompts for the validation images, one per line; empty lines and lines that begin with # "
        "are skipped",
    )
    num_validation_images: int = flag(
        4, "validation images per prompt, with the seeds --seed (0 if unset), --seed + 1 and so on", min=1
    )
    validation_steps: int = flag(100, "generate validation images every N steps, and at the end", min=1)
    validation_epochs: int | None = flag(
        None, "generate validation images every N epochs, instead of every --validation_steps steps", min=1
    )
    final_validation_prompt: str | None = flag(
        None, "instead of --validation_prompt: prompt of images that are generated only at the end"
    )
    skip_final_inference: bool = flag(False, "generate no validation images at the end")
    validation_scheduler: Literal["DPMSolverMultistepScheduler", "DDPMScheduler"] = flag(
        "DPMSolverMultistepScheduler", "sampler of the validation images"
    )

    dino_model: str | None = flag(
        None,
        "measure the validation images with this DINO, hub name or folder, such as facebook/dino-vits16: how much the "
        "subject and the background look like the photos'; warn if the background leaks; --sam finds the subject",
    )
    clip_model: str | None = flag(
        None, "the same with a CLIP, such as openai/clip-vit-base-patch32; --dino_model takes precedence"
    )
    choose_checkpoint: bool = flag(
        False,
        "at the end, evaluate all checkpoints and name the best, as `persam-dreambooth evaluate checkpoints` does, "
        "with --sam, --dino_model and --clip_model (if neither is given, with its own defaults, from the hub)",
    )

    def __post_init__(self) -> None:
        """Read the file now, so that a mistake in it ends the run before it begins."""
        super().__post_init__()
        path, own = self.validation_prompts_file, [self.validation_prompt] if self.validation_prompt else []
        lines = read_lines(Path(path), "validation prompts file") if path else []
        read = [line for line in lines if line and not line.startswith("#")]
        if path and not read:
            raise UserError(f"--validation_prompts_file {path} holds no prompt; write one a line, or drop the flag")
        self._prompts = list(dict.fromkeys([*own, *read]))
        for name in ("validation_prompt", "validation_prompts_file", "skip_final_inference"):
            if self.final_validation_prompt and getattr(self, name):
                raise UserError(f"--final_validation_prompt and --{name} exclude each other; drop one")

    @property
    def prompts(self) -> list[str]:
        """The prompts of the images that are generated during training, each once: the flag's, then the file's."""
        return self._prompts

    @property
    def last_prompts(self) -> list[str]:
        """The prompts of the images that are generated at the end."""
        if self.skip_final_inference:
            return []
        return [self.final_validation_prompt] if self.final_validation_prompt else self._prompts

    @property
    def all_prompts(self) -> list[str]:
        """All prompts of validation images, during training and at the end, each once."""
        return list(dict.fromkeys([*self.prompts, *self.last_prompts]))
