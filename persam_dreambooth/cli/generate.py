"""`persam-dreambooth generate`: generate pictures with a trained model."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from persam_dreambooth.atomic_io import clear_unfinished
from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos.files import check_output_folder
from persam_dreambooth.text_files import check_words, read_lines
from persam_dreambooth.words import counted

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
    """Flags of `generate`."""

    model: str | None = field(
        default=None, metadata={"help": "a trained model: the --output_dir of a training (pipeline or LoRA)"}
    )
    prompt: list[str] = field(
        default_factory=list, metadata={"help": 'one or more, such as "a sks dog in the jungle"'}
    )
    prompts_file: str | None = field(default=None, metadata={"help": "a text file with one prompt per line"})
    output: str = field(default="generated", metadata={"help": "folder for the pictures and grid.png"})
    num_images: int = field(default=4, metadata={"help": "pictures per prompt"})
    seed: int = field(default=0, metadata={"help": "seed of each prompt's first picture; the next ones count up"})
    negative_prompt: str | None = field(default=None, metadata={"help": "what should not be in the pictures"})
    num_inference_steps: int = field(default=50, metadata={"help": "denoising steps"})
    guidance_scale: float = field(default=7.5, metadata={"help": "how closely the prompt is followed"})
    height: int | None = field(default=None, metadata={"help": "pixels; the model's own if unset"})
    width: int | None = field(default=None, metadata={"help": "pixels; the model's own if unset"})
    base_model: str | None = field(
        default=None, metadata={"help": "base of LoRA weights that have no training config beside them"}
    )
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda, cuda:1, mps; an accelerator if available, if unset"}
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(default="float32", metadata={"help": "precision"})

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError("--model is missing; give the --output_dir of a finished training")
        if self.prompts_file:
            self.prompt = [*self.prompt, *filter(None, read_lines(Path(self.prompts_file), "prompts file"))]
        if not self.prompt:
            raise UserError("no prompt; give --prompt, or --prompts_file with one per line")
        check_words("prompt", *self.prompt)
        check_words("negative_prompt", self.negative_prompt)
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
    """Generate, then print the path of the pictures."""
    (flags,) = parse([GenerateFlags], argv, program, "Generate pictures with a trained model.", ESSENTIAL, EXAMPLE)
    from persam_dreambooth.training.screen import quiet

    with quiet():
        _generate(flags)


def _generate(flags: GenerateFlags) -> None:
    import torch
    from PIL import Image

    from persam_dreambooth import generation, model_folder

    folder, prompts = Path(flags.output), list(dict.fromkeys(flags.prompt))
    check_output_folder(folder)
    settings = {
        "negative_prompt": flags.negative_prompt,
        "num_inference_steps": flags.num_inference_steps,
        "guidance_scale": flags.guidance_scale,
        "height": flags.height,
        "width": flags.width,
    }
    # None stands for the default, which is not recorded.
    how = {"base_model": flags.base_model, "dtype": None if flags.dtype == "float32" else flags.dtype}
    how["weights"] = model_folder.weights_digest(Path(str(flags.model))) or None
    model = str(flags.model)
    made = {"model": model, **settings, **how}
    paths, missing = generation.planned_pictures(folder, prompts, flags.num_images, flags.seed, made)
    clear_unfinished(folder)
    _warn_without_token(prompts, model_folder.trained_token(Path(model)))
    if missing:
        pipeline = generation.load_pipeline(model, flags.base_model, flags.device, getattr(torch, flags.dtype))
        for prompt, seed in tqdm(missing, "Generating", unit="picture"):
            picture = generation.draw(pipeline, prompt, seed, **settings)
            generation.save_picture(picture, paths[prompt, seed], model, settings | how)
    pictures = []
    for (prompt, seed), path in paths.items():
        with Image.open(path) as image:
            pictures.append(generation.Picture(image.convert("RGB"), prompt, seed))
    grid = generation.save_grid(pictures, flags.num_images, folder, model)
    kept = len(pictures) - len(missing)
    print(
        f"{counted(len(pictures), 'picture')} in {folder}" + (f", {kept} of them from an earlier run" if kept else "")
    )
    print(f"look at them: {grid}")


def _warn_without_token(prompts: list[str], token: str | None) -> None:
    """Warn once if a prompt lacks the model's identifier."""
    without = [prompt for prompt in prompts if token and token.lower() not in prompt.lower().split()]
    if without:
        more = f" (and {len(without) - 1} more)" if len(without) > 1 else ""
        print(
            f"the prompt {without[0]!r}{more} lacks {token!r}, the identifier of the model's subject", file=sys.stderr
        )
