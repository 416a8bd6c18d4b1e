"""`persam-dreambooth convert`: convert LoRA, LoHa and LoKr to kohya's format."""

from dataclasses import dataclass

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import UserError, printable
from persam_dreambooth.flags import Flags, flag
from persam_dreambooth.model_folder import KOHYA_NAME, LORA_NAME


@dataclass
class ConvertFlags(Flags):
    """Flags of `convert`."""

    model: str | None = flag(None, f"the --output_dir of a finished LoRA, LoHa or LoKr training, or its {LORA_NAME}")
    output: str | None = flag(None, f"the .safetensors file to write; {KOHYA_NAME} beside the weights if unset")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise UserError("--model is missing; give the --output_dir of a finished LoRA training")


def run(program: str, argv: list[str]) -> None:
    """Convert, then print the path of the file."""
    text = "Convert a LoRA, LoHa or LoKr to kohya's format, which A1111, ComfyUI and others read."
    (flags,) = parse([ConvertFlags], argv, program, text, example="--model dog-lora --output dog.safetensors")
    from persam_dreambooth.training.output.kohya import convert_lora

    target = convert_lora(flags.model, flags.output or None)
    print(f"for A1111 and Forge (models/Lora) and ComfyUI (models/loras): {printable(str(target))}")
