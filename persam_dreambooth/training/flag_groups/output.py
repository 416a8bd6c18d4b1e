"""Flags of output files, checkpoints, logs and the upload."""

import os
from dataclasses import dataclass
from typing import ClassVar

from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import Flags, flag


@dataclass
class OutputConfig(Flags):
    """Output files, checkpoints, logs and the upload."""

    _argument_group_name: ClassVar[str] = "output"

    output_dir: str = flag(
        "dreambooth-model", "folder for the model, its config, masks.png, checkpoints and validation images"
    )
    dry_run: bool = flag(
        False,
        "train nothing: check everything, estimate the memory and draw the first batch as masks.png in the output "
        "folder",
    )
    checkpointing_steps: int = flag(500, "save a checkpoint every N steps", min=1)
    checkpoints_total_limit: int | None = flag(None, "keep only the newest N checkpoints; all if unset", min=1)
    resume_from_checkpoint: str | None = flag(None, 'a checkpoint of the output folder, or "latest"')
    upcast_before_saving: bool = flag(
        True,
        "save the model in float32; --no_upcast_before_saving saves it in the precision of --mixed_precision, half "
        "the size, as diffusers' scripts do by default",
    )
    skip_save_text_encoder: bool = flag(False, "leave the text encoder out of the saved pipeline")
    output_kohya_format: bool = flag(
        False, "with LoRA, LoHa and LoKr: also save the weights in kohya's format, for A1111 and ComfyUI"
    )
    logging_dir: str = flag("logs", "folder of the trackers' logs, inside the output folder")
    report_to: str | None = flag(
        None,
        "tensorboard, wandb, comet_ml, all (that are installed) or none; if unset, tensorboard where it is installed",
    )
    push_to_hub: bool = flag(
        False,
        "upload the model, card, config and validation images to the hub, but nothing that shows the photos",
    )
    push_masks_to_hub: bool = flag(False, "upload masks.png too, which shows your photos with their masks")
    hub_token: str | None = flag(None, "token for the upload; `hf auth login` is safer", secret=True)
    hub_model_id: str | None = flag(None, "name of the repository on the hub; the output folder's if unset")
    # Some launchers add it to the command line.
    local_rank: int = flag(-1, "number of this process on its machine", min=-1, below=2**31, hidden=True)

    def __post_init__(self) -> None:
        if self.report_to not in (None, "tensorboard", "none") and self.hub_token is not None:
            raise UserError(
                f"--hub_token could be kept by --report_to {self.report_to}, which may log the command line; use "
                "`hf auth login` instead"
            )
        if self.push_masks_to_hub and not self.push_to_hub:
            raise UserError("--push_masks_to_hub needs --push_to_hub; add it, or drop both")
        super().__post_init__()
        launched = os.environ.get("LOCAL_RANK", "0")
        if self.local_rank >= 0 and str(self.local_rank) != launched:
            raise UserError(
                f"--local_rank {self.local_rank}: the launcher's LOCAL_RANK says {launched}; start the processes with "
                "`accelerate launch` or torchrun, and drop the flag"
            )
