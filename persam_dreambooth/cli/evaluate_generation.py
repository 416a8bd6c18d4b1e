"""`persam-dreambooth evaluate generation`: how well models learned a subject, and how much of its photos leaks
into their pictures."""

from dataclasses import dataclass, field
from typing import Literal

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.drawing_settings import check_drawing
from persam_dreambooth.errors import UserError
from persam_dreambooth.text_files import check_words

DESCRIPTION = (
    "Generate pictures for DreamBench's prompts with one or several models, and compare them with the subject's "
    "photos and with the prompts; writes report.html, metrics.json and all pictures."
)
ESSENTIAL = (
    "model",
    "instance_data_dir",
    "instance_mask_dir",
    "output",
    "prompts",
    "unique_token",
    "class_token",
    "training_scenes",
    "num_images",
    "clip_model",
)
EXAMPLE = (
    "--model plain=dog-plain masked=dog-lora --instance_data_dir dog --instance_mask_dir dog-masks \\\n"
    "    --prompts live --unique_token sks --class_token dog --output dog-report"
)


@dataclass
class GenerationReportFlags:
    """Flags of `evaluate generation`."""

    model: list[str] = field(
        default_factory=list,
        metadata={"help": "output of a training, or a hub name; several to compare, TITLE=FOLDER to name them"},
    )
    instance_data_dir: str | None = field(default=None, metadata={"help": "the subject's photos"})
    instance_mask_dir: str | None = field(
        default=None, metadata={"help": "their masks, as `persam-dreambooth segment` writes them"}
    )
    output: str | None = field(default=None, metadata={"help": "folder for the report; run again to resume"})
    prompts: str = field(
        default="objects",
        metadata={
            "help": "DreamBench's 25 for objects or live subjects (live), or a text file with one per line, such as "
            '"a {unique_token} {class_token} [in the jungle]", the brackets around the scene'
        },
    )
    unique_token: str | None = field(default=None, metadata={"help": 'the identifier of the subject, such as "sks"'})
    class_token: str | None = field(default=None, metadata={"help": 'its class, such as "dog"'})
    training_scenes: list[str] = field(
        default_factory=list,
        metadata={
            "help": 'where the photos were taken, as in a prompt ("on a sofa"); measures how often it reappears'
        },
    )
    scene_template: str = field(
        default="a photo {}", metadata={"help": "prompt by which CLIP looks for a scene; {} stands for the scene"}
    )
    num_images: int = field(default=4, metadata={"help": "pictures per prompt"})
    seed: int = field(default=0, metadata={"help": "seed of each prompt's first picture; the same for each model"})
    num_inference_steps: int = field(default=50, metadata={"help": "denoising steps"})
    guidance_scale: float = field(default=7.5, metadata={"help": "how closely the prompt is followed"})
    negative_prompt: str | None = field(default=None, metadata={"help": "what should not be in the pictures"})
    height: int | None = field(default=None, metadata={"help": "pixels; the model's own if unset"})
    width: int | None = field(default=None, metadata={"help": "pixels; the model's own if unset"})
    base_model: str | None = field(
        default=None, metadata={"help": "base of LoRA weights that have no training config beside them"}
    )
    dino_model: str = field(
        default="facebook/dino-vits16",
        metadata={"help": "hub name or folder; the paper's by default; none skips its measures"},
    )
    clip_model: str = field(
        default="openai/clip-vit-base-patch32",
        metadata={"help": "hub name or folder; by default not the text encoder of Stable Diffusion 1"},
    )
    diversity: Literal["features", "lpips"] = field(
        default="features",
        metadata={"help": "1 - cosine of DINO's (else CLIP's) features; or lpips as in the paper, downloads AlexNet"},
    )
    sam: str = field(
        default="facebook/sam-vit-huge",
        metadata={"help": "finds the subject in the pictures: hub name, folder, or original .pth checkpoint"},
    )
    presence: str | None = field(
        default=None,
        metadata={"help": "file of the presence rule (is the subject there?); presence.json beside the SAM if unset"},
    )
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda, cuda:1, mps; an accelerator if available, if unset"}
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "precision of the models and of SAM; CLIP and DINO stay float32"}
    )

    def __post_init__(self) -> None:
        for name in ("model", "instance_data_dir", "instance_mask_dir", "output"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing; see --help")
        for name in ("unique_token", "class_token", "negative_prompt", "scene_template"):
            check_words(name, getattr(self, name))
        check_words("training_scenes", *self.training_scenes)
        check_drawing(self.num_images, self.num_inference_steps, self.height, self.width)
        if not 0 <= self.seed < 2**63 - self.num_images:
            raise UserError(f"--seed {self.seed} must lie in [0, 2^63 - num_images)")
        if "{}" not in self.scene_template:
            raise UserError(f"--scene_template {self.scene_template!r} has no {{}} for the scene's words")


def run(program: str, argv: list[str]) -> None:
    """Evaluate, then print the table and the path of the report."""
    (flags,) = parse([GenerationReportFlags], argv, program, DESCRIPTION, ESSENTIAL, EXAMPLE)
    import torch

    from persam_dreambooth.evaluation.generation.report_folder import evaluate_generation

    given = vars(flags) | {
        "presence": flags.presence or None,
        "dino_model": None if flags.dino_model == "none" else flags.dino_model,
        "dtype": getattr(torch, flags.dtype),
    }
    report = evaluate_generation(given.pop("model"), **given)
    print(report.table)
    for note in report.notes:
        print(note)
    print(f"every number: {report.metrics_file}")
    print(f"look at it: {report.page}")
