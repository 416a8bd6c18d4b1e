"""What all families share, and what the loop asks of one."""

import copy
from abc import abstractmethod
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.training_utils import cast_training_params
from diffusers.utils.import_utils import is_xformers_available
from torch import Tensor, nn

from persam_dreambooth.errors import UserError
from persam_dreambooth.torch_utils import weights_checksum
from persam_dreambooth.training.config import ModelConfig, OptimizationConfig, TrainingConfig
from persam_dreambooth.training.families import lora
from persam_dreambooth.training.families.flags import check_flags
from persam_dreambooth.training.families.noised import Conditioning, Noised
from persam_dreambooth.training.families.parts import PipelineParts

TEXT_ENCODER_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]


class Family(PipelineParts):
    """A text-to-image model in training.

    A subclass names its parts and says how prompts are encoded and what the denoiser is asked; how noise is added
    stands in `Diffusion` and `FlowMatching`. The loop never asks which family it has.

    Attributes:
        prediction_type: what the denoiser predicts: "epsilon", "v_prediction" or "flow".
        dtype: of all that is frozen, as `place` was told.
        targets: the denoiser's layers that LoRA adapts.
        lora_encoders: the text encoders that get adapters with `--train_text_encoder`.
        whole_encoders: the text encoders that are trained whole with it.
        flags: those of `PARTICULAR` that it has a use for.
        vae_dtype: of the autoencoder; None is that of the other frozen parts.
    """

    targets: ClassVar[list[str]]
    lora_encoders: ClassVar[tuple[str, ...]] = ()
    whole_encoders: ClassVar[tuple[str, ...]] = ()
    flags: ClassVar[frozenset[str]]
    vae_dtype: ClassVar[torch.dtype | None] = None

    prediction_type: str
    dtype: torch.dtype

    def __init__(self, config: ModelConfig, **parts: Any) -> None:
        super().__init__(config, **parts)
        self.base: dict[str, nn.Module] = {}
        self.dtype = torch.float32
        self._freeze()

    @classmethod
    def check(cls, config: TrainingConfig) -> None:
        """Refuse, before any weight is loaded, flags that it has no use for.

        Raises:
            UserError: the first of them.
        """
        check_flags(cls, config)

    def asked(self, prompt: str) -> str:
        """The text that a prompt is tokenized as."""
        return prompt

    def _trained_encoders(self) -> tuple[str, ...]:
        if not self.config.train_text_encoder:
            return ()
        return self.lora_encoders if self.config.use_lora else self.whole_encoders

    def _freeze(self) -> None:
        """Leave gradients only where something is to be learned; hang LoRA adapters on."""
        config, denoiser = self.config, getattr(self, self.denoiser[0])
        trained = self.trained()
        for name in ("vae", *self.encoders, self.denoiser[0]):
            if getattr(self, name) is not None:
                getattr(self, name).requires_grad_(name in trained and not config.use_lora)
        if config.enable_xformers_memory_efficient_attention:
            if not is_xformers_available():
                raise UserError("--enable_xformers_memory_efficient_attention needs `pip install xformers`")
            denoiser.enable_xformers_memory_efficient_attention()
        if config.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
            for name in self._trained_encoders():
                getattr(self, name).gradient_checkpointing_enable()
        if config.use_lora:
            for name, part in trained.items():
                targets = self.targets if name == self.denoiser[0] else TEXT_ENCODER_TARGETS
                lora.add_adapters(part, targets, config)
            if config.network_weights:
                lora.begin_from(config.network_weights, trained)

    def trained(self) -> dict[str, nn.Module]:
        """The modules with trainable weights, by their part's name; the first one is the denoiser."""
        return {name: getattr(self, name) for name in (self.denoiser[0], *self._trained_encoders())}

    def replace(self, parts: dict[str, nn.Module]) -> None:
        """Put the modules that Accelerate prepared in place of `trained()`."""
        for name, part in parts.items():
            setattr(self, name, part)

    def keep_base(self) -> None:
        """Make `predict_base` possible; called, if it is to be, on the weights as loaded, before `place`.

        What is kept here is frozen: no part of `trained()`, and in no checkpoint and no result.
        """
        if not self.config.use_lora:
            self.base = {
                name: copy.deepcopy(part).requires_grad_(False).eval() for name, part in self.trained().items()
            }

    def place(self, device: torch.device, dtype: torch.dtype, denoiser_device: torch.device | None = None) -> None:
        """Move all parts to a device and precision; trainable weights stay float32.

        Args:
            device: where they go.
            dtype: of all that is frozen.
            denoiser_device: where the denoiser goes, if elsewhere.
        """
        self.dtype, trained = dtype, self.trained()
        for name in ("vae", *self.encoders, self.denoiser[0]):
            part = getattr(self, name)
            if part is None:
                continue
            whole = (name in trained and not self.config.use_lora) or (name == "vae" and self.vae_dtype is not None)
            where = denoiser_device if denoiser_device and name == self.denoiser[0] else device
            # At once, so that no part is on the device in float32 that does not stay so.
            part.to(where) if dtype == torch.float32 or whole else part.to(where, dtype)
        if self.vae_dtype is not None and dtype != torch.float32:
            self.vae.decode = _outside_autocast(self.vae.decode)
        if dtype != torch.float32:
            cast_training_params(list(trained.values()), dtype=torch.float32)
        for part in self.base.values():
            part.to(device, dtype)
            if dtype != torch.float32:  # so that it computes as the trained one does, which Accelerate wraps
                part.forward = torch.autocast(device.type, dtype)(part.forward)  # type: ignore[method-assign]

    @abstractmethod
    def tokenize(self, prompt: str) -> Conditioning:
        """A prompt as token tensors with a leading dimension of 1."""

    def encode_prompt(self, tokens: Conditioning) -> Conditioning:
        """Token tensors, or what this made of them before, to what `predict` takes.

        Returns:
            `embeds`, (B, length, channels), and what else the family's denoiser asks of a prompt; every
            tensor has a leading dimension of B.
        """
        return tokens if "embeds" in tokens else self._encode(tokens)

    @abstractmethod
    def _encode(self, tokens: Conditioning) -> Conditioning:
        """`encode_prompt` of token tensors."""

    def stow_autoencoder(self) -> None:
        """Take the autoencoder off the device, where `encode_pixels` is not called again."""
        self.vae.to("cpu")

    def checksum(self, part: str) -> str:
        """Words for the weights and precision of the autoencoder ("vae") or of the text encoders ("text")."""
        parts = [getattr(self, name) for name in (["vae"] if part == "vae" else self.encoders)]
        return "-".join(f"{weights_checksum(one)}-{one.dtype}" for one in parts if one is not None)

    def drop_text_encoder(self) -> None:
        """Free what `encode_prompt` needs for tokens; from now on it takes what it returned before only."""
        for name in self.encoders:
            setattr(self, name, None)

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, 2 C, h, w), means and log variances of latents; draws no random number."""
        moments: Tensor = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.parameters
        return moments

    def sample_latents(self, moments: Tensor) -> Tensor:
        """What `encode_pixels` returned to (B, C, h, w) latents, sampled with the global random generator."""
        latents = DiagonalGaussianDistribution(moments).sample()
        shift = self.vae.config.shift_factor
        return (latents if shift is None else latents - shift) * self.vae.config.scaling_factor

    @abstractmethod
    def add_noise(self, latents: Tensor, settings: OptimizationConfig) -> Noised:
        """Draw noise, then timesteps, with the global random generator; the result has no `crop` yet."""

    def snr(self, timesteps: Tensor) -> Tensor:
        """(B,) signal-to-noise ratio, for min-SNR; flow matching has no use for it, and `check` refuses the flag."""
        raise NotImplementedError

    @abstractmethod
    def predict(self, noised: Noised, conditioning: Conditioning) -> Tensor:
        """The denoiser's prediction, (B, C, h, w), for the prompts that `encode_prompt` encoded."""

    @torch.no_grad()
    def predict_base(self, noised: Noised, tokens: Conditioning) -> Tensor:
        """The base model's prediction, before any training, (B, C, h, w): no gradient, no random numbers drawn.

        The prompt comes as `encode_prompt` takes it, and is encoded as before any training too.
        `trained()` is afterwards as it was.
        """
        trained = self.trained()
        with ExitStack() as stack:
            if self.config.use_lora:
                for part in trained.values():
                    stack.enter_context(lora.without_adapters(part))
            else:
                stack.callback(self.replace, trained)
                self.replace({name: self.base[name] for name in trained})
            return self.predict(noised, self.encode_prompt(tokens))

    @abstractmethod
    def sampler(self, name: str, config: Any) -> Any:
        """The scheduler of validation pictures: diffusers' class of this name, if the family has a choice.

        Args:
            name: of the class.
            config: of the pipeline's own scheduler.
        """


def _outside_autocast(decode: Any) -> Any:
    """An autoencoder's `decode` in float32, even for pictures that are otherwise drawn in low precision."""

    def in_float32(latents: Tensor, *args: Any, **more: Any) -> Any:
        with torch.autocast(latents.device.type, enabled=False):
            return decode(latents.float(), *args, **more)

    return in_float32
