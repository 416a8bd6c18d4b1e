"""`persam-dreambooth evaluate generation`: how well models learned a subject, and how much of its photos leaks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import UserError
from persam_dreambooth.flag_values import check_drawing
from persam_dreambooth.flags import Flags, flag
from persam_dreambooth.text_files import check_words

if TYPE_CHECKING:  # importing torch takes seconds, and --help does not need it
    from persam_dreambooth.evaluation.generation.running import GenerationReport

DESCRIPTION = (
    "Generate images for DreamBench's prompts, or your own, with one or several models, and compare them with the "
    "subject's photos and with the prompts; writes report.html, metrics.json and all images."
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
    "--output dog-report \\\n"
    "    --model plain=dog-plain masked=dog-lora \\\n"
    "    --instance_data_dir dog --instance_mask_dir dog-masks \\\n"
    "    --prompts live --unique_token sks --class_token dog"
)


@dataclass
class DrawnFlags(Flags):
    """Flags of both `evaluate generation` and `evaluate checkpoints`."""

    needed: ClassVar[tuple[str, ...]] = ()

    instance_data_dir: str | None = flag(None, "the subject's photos")
    instance_mask_dir: str | None = flag(None, "their masks, as `persam-dreambooth segment` writes them")
    unique_token: str | None = flag(None, 'the identifier of the subject, such as "sks"')
    class_token: str | None = flag(None, 'its class, such as "dog"')
    training_scenes: list[str] = flag(
        [], 'where the photos were taken, worded as in a prompt ("on a sofa"); measures how often this place reappears'
    )
    scene_template: str = flag("a photo {}", "prompt with which CLIP looks for a scene; {} stands for the scene")
    num_images: int = flag(4, "images per prompt", min=1)
    class_images: int = flag(
        8,
        'images of the class without the unique token ("a dog"), to measure class leakage: whether other dogs turn '
        "into the subject; 0 leaves it out",
        min=0,
    )
    seed: int = flag(0, "seed of each prompt's first image; the same for each model", min=0, below=2**63)
    num_inference_steps: int = flag(50, "denoising steps", min=1)
    guidance_scale: float = flag(7.5, "classifier-free guidance: how closely the prompt is followed")
    negative_prompt: str | None = flag(None, "what should not be in the images")
    height: int | None = flag(None, "in pixels, a multiple of 8; the model's own if unset")
    width: int | None = flag(None, "in pixels, a multiple of 8; the model's own if unset")
    base_model: str | None = flag(None, "base model of LoRA weights that have no training config next to them")
    single_file_config: str | None = flag(
        None,
        "with a model or base model in a single file: hub name or folder of a diffusers pipeline of the same kind, "
        "for the configs; if unset, the one of the training, or else the original release on the hub",
    )
    dino_model: str = flag(
        "facebook/dino-vits16",
        "a DINO, hub name or folder; the default is the DreamBooth paper's; none skips the metrics that use it",
    )
    clip_model: str = flag(
        "openai/clip-vit-base-patch32",
        "a CLIP, hub name or folder; the default is not the CLIP whose text encoder Stable Diffusion 1 uses",
    )
    masc_model: str = flag(
        "none",
        "a SigLIP 2, hub name or folder, to compute MaSC (are the photo's subject patches found in the images?); its "
        "paper uses google/siglip2-so400m-patch16-naflex; none leaves it out",
    )
    diversity: Literal["features", "lpips"] = flag(
        "features",
        "diversity of a prompt's images: features: 1 - cosine of DINO's (or else CLIP's) features; lpips: as in the "
        "paper, downloads AlexNet",
    )
    sam: str = flag(
        "facebook/sam-vit-huge",
        "the SAM that finds the subject in the images: hub name, folder or original .pth checkpoint",
    )
    presence: str | None = flag(
        None, "file of the presence rule (is the subject there?); presence.json in the SAM's folder if unset"
    )
    device: str | None = flag(None, "cpu, cuda, cuda:1 or mps; if unset, an accelerator where available")
    dtype: Literal["float32", "bfloat16", "float16"] = flag(
        "float32", "precision of the models and of SAM; CLIP and DINO stay float32"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.needed)
        for name in ("unique_token", "class_token", "negative_prompt", "scene_template"):
            check_words(name, getattr(self, name))
        check_words("training_scenes", *self.training_scenes)
        check_drawing(self.num_images, self.num_inference_steps, self.height, self.width)
        if self.seed >= 2**63 - max(self.num_images, self.class_images):  # each further picture adds 1 to the seed
            most = f"2^63 - {max(self.num_images, self.class_images)}"
            raise UserError(f"--seed {self.seed} must be less than {most}, since each further image adds 1 to it")
        if "{}" not in self.scene_template:
            raise UserError(f"--scene_template {self.scene_template!r} has no {{}} for the scene's words; add it")

    def settings(self) -> dict[str, Any]:
        """Return the flags as keywords of `evaluate_generation`."""
        import torch

        return vars(self) | {
            "presence": self.presence or None,
            "dino_model": None if self.dino_model == "none" else self.dino_model,
            "masc_model": None if self.masc_model == "none" else self.masc_model,
            "dtype": getattr(torch, self.dtype),
        }


PROMPTS = (
    "objects or live: DreamBench's 25 prompts for objects or live subjects; scenes: five of them; or a file with a "
    'prompt per line, such as "a {unique_token} {class_token} [in the jungle]", with the scene in brackets'
)


@dataclass
class GenerationReportFlags(DrawnFlags):
    """Flags of `evaluate generation`."""

    needed: ClassVar[tuple[str, ...]] = ("model", "instance_data_dir", "instance_mask_dir", "output")

    model: list[str] = flag(
        [], "a training's --output_dir, or a hub name; several are compared, as TITLE=FOLDER to give them names"
    )
    output: str | None = flag(None, "folder for the report; run again to resume")
    prompts: str = flag("objects", PROMPTS)


def run(program: str, argv: list[str]) -> None:
    """Evaluate, then print the table and the path of the report."""
    (flags,) = parse([GenerationReportFlags], argv, program, DESCRIPTION, ESSENTIAL, EXAMPLE)
    from persam_dreambooth.evaluation.generation.running import evaluate_generation

    given = flags.settings()
    say(evaluate_generation(given.pop("model"), **given))


def say(report: "GenerationReport") -> None:
    """Print the table, the notes and the paths."""
    print(report.table)
    for note in report.notes:
        print(note)
    print(f"every number: {report.metrics_file}")
    print(f"look at it: {report.page}")
