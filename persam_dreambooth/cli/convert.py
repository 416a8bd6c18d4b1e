"""`persam-dreambooth convert`: convert LoRA weights to kohya's format."""

from dataclasses import dataclass, field
from pathlib import Path

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import UserError, printable
from persam_dreambooth.model_folder import KOHYA_NAME, LORA_NAME, training_settings
from persam_dreambooth.photos.files import check_output_folder


@dataclass
class ConvertFlags:
    """Flags of `convert`."""

    model: str | None = field(
        default=None, metadata={"help": f"the --output_dir of a finished LoRA training, or its {LORA_NAME}"}
    )
    output: str | None = field(
        default=None, metadata={"help": f"the .safetensors file to write; {KOHYA_NAME} beside the weights if unset"}
    )

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError("--model is missing; give the --output_dir of a finished LoRA training")
        if self.output and Path(self.output).suffix != ".safetensors":
            raise UserError(f"--output {self.output} must end in .safetensors")


def run(program: str, argv: list[str]) -> None:
    """Convert, then print the path of the file."""
    (flags,) = parse(
        [ConvertFlags], argv, program, "Convert LoRA weights to kohya's format, for A1111, ComfyUI and others."
    )
    from persam_dreambooth.training.output.kohya import convert_file

    given = Path(flags.model)
    source = given / LORA_NAME if given.is_dir() else given
    if not source.is_file():
        raise UserError(f"{given} holds no {LORA_NAME}; give the --output_dir of a finished LoRA training")
    target = Path(flags.output) if flags.output else source.with_name(KOHYA_NAME)
    check_output_folder(target.parent)
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} already exists; choose another --output, or delete it")
    title = target.stem if flags.output else source.resolve().parent.name
    convert_file(source, target, title, training_settings(source.parent))
    print(f"for A1111 and Forge (models/Lora) and ComfyUI (models/loras): {printable(str(target))}")
