"""`persam-dreambooth generate`: generate pictures with a trained model."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import UserError, counted
from persam_dreambooth.flag_values import check_drawing
from persam_dreambooth.flags import Flags, flag
from persam_dreambooth.model_folder import trained_token
from persam_dreambooth.text_files import check_words, read_lines

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
EXAMPLE = '--model dog-lora --output dog-pictures \\\n    --prompt "a sks dog in the jungle" "a sks dog in the snow"'


@dataclass
class GenerateFlags(Flags):
    """Flags of `generate`."""

    model: str | None = flag(None, "a trained model: the --output_dir of a training, or a file of LoRA, LoHa or LoKr")
    prompt: list[str] = flag([], 'one or more prompts, such as "a sks dog in the jungle"')
    prompts_file: str | None = flag(None, "a text file with one prompt per line")
    output: str = flag("generated", "folder for the images and grid.png")
    num_images: int = flag(4, "images per prompt", min=1)
    seed: int = flag(0, "seed of each prompt's first image; each further image adds 1", min=-(2**63), below=2**63)
    negative_prompt: str | None = flag(None, "what should not be in the images")
    num_inference_steps: int = flag(50, "denoising steps", min=1)
    guidance_scale: float = flag(7.5, "classifier-free guidance: how closely the prompt is followed")
    height: int | None = flag(None, "in pixels, a multiple of 8; the model's own if unset")
    width: int | None = flag(None, "in pixels, a multiple of 8; the model's own if unset")
    base_model: str | None = flag(None, "base model of LoRA or other adapters without a training config next to them")
    single_file_config: str | None = flag(
        None,
        "with a model or base model in a single file: hub name or folder of a diffusers pipeline of the same kind, "
        "for the configs; if unset, the one of the training, or else the original release on the hub",
    )
    device: str | None = flag(None, "cpu, cuda, cuda:1 or mps; if unset, an accelerator where available")
    dtype: Literal["float32", "bfloat16", "float16"] = flag("float32", "precision of the model")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise UserError("--model is missing; give the --output_dir of a finished training")
        if self.prompts_file:
            self.prompt = [*self.prompt, *filter(None, read_lines(Path(self.prompts_file), "prompts file"))]
        if not self.prompt:
            raise UserError("no prompt; give --prompt, or --prompts_file with one per line")
        check_words("prompt", *self.prompt)
        check_words("negative_prompt", self.negative_prompt)
        check_drawing(self.num_images, self.num_inference_steps, self.height, self.width)


def run(program: str, argv: list[str]) -> None:
    """Generate, then print the path of the pictures."""
    (flags,) = parse([GenerateFlags], argv, program, "Generate images with a trained model.", ESSENTIAL, EXAMPLE)
    import torch

    from persam_dreambooth.generated_folder import generate_folder

    given = vars(flags) | {"dtype": getattr(torch, flags.dtype)}
    model, output = given.pop("model"), Path(given.pop("output"))
    prompts = list(dict.fromkeys(given.pop("prompt")))
    del given["prompts_file"]  # its lines are among the prompts
    _warn_without_token(prompts, trained_token(Path(model)))
    made = generate_folder(model, prompts, output, **given)
    kept = len(made.pictures) - made.drawn
    earlier = f", {kept} of them from an earlier run" if kept else ""
    print(f"{counted(len(made.pictures), 'image')} in {output}{earlier}")
    print(f"look at them: {made.grid}")


def _warn_without_token(prompts: list[str], token: str | None) -> None:
    """Warn once if a prompt lacks the model's identifier."""
    without = [prompt for prompt in prompts if token and token.lower() not in prompt.lower().split()]
    if without:
        more = f" (and {len(without) - 1} more)" if len(without) > 1 else ""
        print(
            f"the prompt {without[0]!r}{more} lacks {token!r}, the identifier of the model's subject", file=sys.stderr
        )
