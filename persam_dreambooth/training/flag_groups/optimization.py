"""Flags of the training's length, learning rate, optimizer, noise and precision."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import Flags, flag
from persam_dreambooth.training import optimizer_args


@dataclass
class OptimizationConfig(Flags):
    """Length of the training, learning rate, optimizer, noise and precision."""

    _argument_group_name: ClassVar[str] = "optimization"

    num_train_epochs: int = flag(1, "passes over the photos", min=1)
    max_train_steps: int | None = flag(None, "optimizer steps; takes precedence over --num_train_epochs", min=1)
    gradient_accumulation_steps: int = flag(1, "batches per optimizer step; their gradients are averaged", min=1)
    learning_rate: float | None = flag(
        None,
        "rate after warm-up; if unset, 1 with Prodigy, else as in diffusers' scripts: 5e-4 with LoRA, 5e-6 without",
        min=0,
    )
    text_encoder_lr: float | None = flag(
        None,
        "with --train_text_encoder or --train_text_encoder_ti: the learning rate of the text encoders or of the new "
        "embeddings, which --scale_lr does not multiply; --learning_rate if unset",
        min=0,
    )
    scale_lr: bool = flag(
        False, "multiply the learning rate by the number of processes, accumulation steps and batch size"
    )
    lr_scheduler: str = flag(
        "constant",
        "schedule of the learning rate: linear, cosine, cosine_with_restarts, polynomial, constant or "
        "constant_with_warmup",
    )
    lr_warmup_steps: int = flag(
        500, "steps until the full learning rate is reached; --lr_scheduler constant has no warm-up", min=0
    )
    lr_num_cycles: int = flag(1, "number of cycles of cosine_with_restarts", min=1)
    lr_power: float = flag(1.0, "exponent of the polynomial schedule", min=0)
    optimizer: str = flag(
        "adamw",
        "adamw; adamw8bit or paged_adamw8bit (need bitsandbytes; paged moves its states to main memory when the GPU "
        "is full); or prodigy (needs prodigyopt)",
    )
    optimizer_args: dict[str, Any] = flag(
        {},
        "further settings of the optimizer, such as weight_decay=0.01 betas=0.9,0.99 or, with Prodigy, d_coef=2 "
        "decouple=False; they take precedence over --adam_*; an unknown one is refused with a list of all",
    )
    use_8bit_adam: bool = flag(False, "the same as --optimizer adamw8bit")
    adam_beta1: float = flag(0.9, "decay of the optimizer's first moment", min=0, below=1)
    adam_beta2: float = flag(0.999, "decay of the optimizer's second moment", min=0, below=1)
    adam_weight_decay: float = flag(1e-2, "the optimizer's weight decay", min=0)
    adam_weight_decay_text_encoder: float | None = flag(
        None,
        "with --train_text_encoder or --train_text_encoder_ti: the weight decay of the text encoders or of the new "
        "embeddings; --adam_weight_decay if unset",
        min=0,
    )
    adam_epsilon: float = flag(1e-8, "the optimizer's epsilon", min=0)
    # Names of diffusers' scripts for settings of --optimizer_args.
    prodigy_beta3: float | None = flag(None, "--optimizer_args beta3=VALUE", min=0, below=1, hidden=True)
    prodigy_decouple: bool | None = flag(None, "--optimizer_args decouple=VALUE", hidden=True)
    prodigy_use_bias_correction: bool | None = flag(None, "--optimizer_args use_bias_correction=VALUE", hidden=True)
    prodigy_safeguard_warmup: bool | None = flag(None, "--optimizer_args safeguard_warmup=VALUE", hidden=True)
    max_grad_norm: float = flag(1.0, "gradients are clipped to this norm", min=0)
    use_ema: bool = flag(
        False, "keep a moving average of the weights (EMA), which validation images and the saved model use"
    )
    ema_decay: float = flag(
        0.9999, "upper limit of the EMA's decay; at step t the decay is at most t / (9 + t)", min=0, below=1
    )
    snr_gamma: float | None = flag(None, "min-SNR weighting of the timesteps; 5.0 is its paper's value", min=1e-6)
    offset_noise: bool = flag(
        False, "add a random offset to each channel of the noise, to learn very dark or bright images"
    )
    weighting_scheme: Literal["sigma_sqrt", "logit_normal", "mode", "cosmap", "none"] | None = flag(
        None,
        "flow matching: which noise levels are drawn more often or weighted higher; if unset, as in diffusers' "
        "scripts, logit_normal with SD 3 and none with the others",
    )
    logit_mean: float = flag(
        0.0,
        "mean of logit_normal; below 0 favours high noise levels with SD 3 and Flux, low ones with Lumina 2",
        min=-1e6,
        max=1e6,
    )
    logit_std: float = flag(1.0, "standard deviation of logit_normal", min=1e-6)
    mode_scale: float = flag(1.29, "how far mode departs from the uniform distribution", min=-1e6, max=1e6)
    precondition_outputs: int | None = flag(
        None,
        "SD 3: take the loss on latents (1), which weights noisy images higher, or on velocities (0); 1 if unset",
        min=0,
        max=1,
    )
    do_edm_style_training: bool = flag(
        False,
        "SDXL: train with EDM's loss on the clean image (arXiv 2206.00364); always on with base models that were "
        "trained that way, such as Playground 2.5",
    )
    set_grads_to_none: bool = flag(True, "free gradients instead of zeroing them: faster, with the same weights")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = flag(
        None, "precision of the forward pass; Accelerate's setting if unset"
    )
    torch_compile: bool = flag(
        False,
        "compile the repeated blocks of the trained model: slow in the first steps, then faster; for the whole model, "
        "which takes much longer at first, use accelerate launch --dynamo_backend inductor instead",
    )
    allow_tf32: bool = flag(False, "use TF32 for matrix products, on Ampere and later GPUs")
    seed: int | None = flag(None, "makes a run reproducible", min=0, below=2**32)
    seed_each_batch: bool = flag(
        False,
        "derive the order of photos, crops, noise and timesteps from --seed and the batch's number: the same "
        "training on any number of processes, if processes x accumulation and the batch size stay the same",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._resolve_optimizer()
        if self.seed_each_batch and self.seed is None:
            raise UserError("--seed_each_batch needs --seed, any number")

    def _resolve_optimizer(self) -> None:
        """Give the optimizer one name, in lower case (diffusers' scripts write AdamW), and check its settings."""
        self.optimizer = self.optimizer.lower()
        if self.optimizer not in optimizer_args.ALLOWED:
            known = ", ".join(optimizer_args.ALLOWED)
            raise UserError(f"--optimizer {self.optimizer} is unknown; choose one of {known}")
        if self.use_8bit_adam and self.optimizer == "prodigy":
            raise UserError("--use_8bit_adam and --optimizer prodigy exclude each other; drop one")
        if self.use_8bit_adam and self.optimizer == "adamw":
            self.optimizer = "adamw8bit"
        if self.optimizer == "prodigy" and self.text_encoder_lr is not None:
            raise UserError("--optimizer prodigy finds one rate for all weights; drop --text_encoder_lr")
        if self.adam_weight_decay_text_encoder is not None and "weight_decay" in self.optimizer_args:
            raise UserError(
                "--adam_weight_decay_text_encoder and weight_decay in --optimizer_args exclude each other; drop the "
                "first, or give --adam_weight_decay instead of the second"
            )
        if self.optimizer == "prodigy" and (self.learning_rate == 0 or self.adam_epsilon == 0):
            raise UserError("--optimizer prodigy needs --learning_rate (1 if unset) and --adam_epsilon above 0")
        self.optimizer_args = optimizer_args.checked(self.optimizer, optimizer_args.with_old_flags(vars(self)))
        for name in optimizer_args.PRODIGY_DEFAULTS:
            setattr(self, f"prodigy_{name}", None)
