"""`persam-dreambooth generate`: prompts to pictures, with the model that training saved."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos.files import check_output_folder

ESSENTIAL = (
    "model",
    "prompt",
    "prompts_file",
    "output",
    "num_images",
    "seed",
    "num_inference_steps",
    "guidance_scale",
)
EXAMPLE = '--model dog-lora --prompt "a sks dog in the jungle" --output dog-pictures'


@dataclass
class GenerateFlags:
    """The verb's flags."""

    model: str | None = field(
        default=None, metadata={"help": "what training wrote: the --output_dir of a pipeline or a LoRA"}
    )
    prompt: list[str] = field(
        default_factory=list, metadata={"help": 'one or more, such as "a sks dog in the jungle"'}
    )
    prompts_file: str | None = field(default=None, metadata={"help": "a text file with one prompt a line"})
    output: str = field(default="generated", metadata={"help": "folder for the pictures and grid.png"})
    num_images: int = field(default=4, metadata={"help": "pictures a prompt"})
    seed: int = field(default=0, metadata={"help": "of each prompt's first picture; the next ones count up"})
    negative_prompt: str | None = field(default=None, metadata={"help": "what should not be in the pictures"})
    num_inference_steps: int = field(default=50, metadata={"help": "denoising steps"})
    guidance_scale: float = field(default=7.5, metadata={"help": "how closely the prompt is followed"})
    height: int | None = field(default=None, metadata={"help": "pixels; the model's own if unset"})
    width: int | None = field(default=None, metadata={"help": "pixels; the model's own if unset"})
    base_model: str | None = field(
        default=None, metadata={"help": "base of LoRA weights, where no training config lies beside them"}
    )
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda, cuda:1, mps; an accelerator is taken where there is one"}
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(default="float32", metadata={"help": "precision"})

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError("--model is missing; give the --output_dir of a finished training")
        if self.prompts_file:
            path = Path(self.prompts_file)
            if not path.is_file():
                raise UserError(f"no prompts file at {path}; check the path")
            try:
                lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
            except ValueError as error:
                raise UserError(f"the prompts file {path} is no UTF-8 text; save it as UTF-8") from error
            self.prompt = [*self.prompt, *(line for line in lines if line)]
        if not self.prompt:
            raise UserError("no prompt; give --prompt, or --prompts_file with one a line")
        if (self.height is None) != (self.width is None):
            raise UserError("--height and --width belong together; give both or neither")
        if any(side is not None and (side < 8 or side % 8) for side in (self.height, self.width)):
            raise UserError(f"--height {self.height} and --width {self.width} must be multiples of 8")
        if not -(2**63) <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed} must lie in [-2^63, 2^63)")
        for name in ("num_images", "num_inference_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} must be at least 1")


def run(program: str, argv: list[str]) -> None:
    """Generate, then say where the pictures lie."""
    (flags,) = parse([GenerateFlags], argv, program, "Pictures from what training saved.", ESSENTIAL, EXAMPLE)
    import torch
    from diffusers.utils import logging as diffusers_logging

    from persam_dreambooth import generation

    diffusers_logging.set_verbosity_error()  # its warnings here are about its own internals
    folder, prompts = Path(flags.output), list(dict.fromkeys(flags.prompt))
    check_output_folder(folder)
    paths = generation.picture_paths(folder, prompts, flags.num_images, flags.seed)
    pipeline = generation.load_pipeline(flags.model, flags.base_model, flags.device, getattr(torch, flags.dtype))
    settings = {
        "negative_prompt": flags.negative_prompt,
        "num_inference_steps": flags.num_inference_steps,
        "guidance_scale": flags.guidance_scale,
        "height": flags.height,
        "width": flags.width,
    }

    def save(picture: generation.Picture) -> None:
        generation.save_picture(picture, paths[picture.prompt, picture.seed], flags.model, settings)

    pictures = generation.generate(pipeline, prompts, flags.num_images, flags.seed, save, **settings)
    grid = generation.save_grid(pictures, flags.num_images, folder)
    print(f"{len(pictures)} pictures in {folder}")
    print(f"look at them: {grid}")
