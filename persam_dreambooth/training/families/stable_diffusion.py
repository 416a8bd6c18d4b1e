"""Stable Diffusion 1.x and 2.x: epsilon or v prediction, all weights or LoRA, with or without the text encoder."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self, cast

import torch
from accelerate.utils import extract_model_from_parallel
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import (
    _collate_lora_metadata,
    _set_state_dict_into_text_encoder,
    cast_training_params,
    compute_snr,
)
from diffusers.utils import convert_state_dict_to_diffusers, convert_unet_state_dict_to_peft
from diffusers.utils.import_utils import is_xformers_available
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel

from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import LORA_NAME
from persam_dreambooth.training.config import ModelConfig
from persam_dreambooth.training.families.base import Conditioning, Noised

# The attention layers that diffusers' LoRA script adapts.
UNET_TARGETS = ["to_k", "to_q", "to_v", "to_out.0", "add_k_proj", "add_v_proj"]
TEXT_ENCODER_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]


class StableDiffusion:
    """The family behind `StableDiffusionPipeline`; see `Family` for what each method promises."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Any,
        scheduler: Any,
        text_encoder: Any,
        vae: Any,
        unet: Any,
    ) -> None:
        # Any, since diffusers' classes hide their methods from type checkers behind lazy imports.
        self.config, self.base_model = config, str(config.pretrained_model_name_or_path)
        self.tokenizer, self.scheduler = tokenizer, scheduler
        self.text_encoder, self.vae, self.unet = text_encoder, vae, unet
        self.base: dict[str, nn.Module] = {}
        self.prediction_type: str = scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            known = "only epsilon and v_prediction are known"
            raise UserError(f"{self.base_model} predicts {self.prediction_type}; {known}")
        self._freeze()

    @classmethod
    def load(cls, config: ModelConfig) -> Self:
        """Read the parts of a pipeline folder or hub model, all in float32.

        Raises:
            UserError: a part is missing or cannot be read.
        """
        name = str(config.pretrained_model_name_or_path)
        where: dict[str, Any] = {"revision": config.revision}
        with _naming(f"the tokenizer of {config.tokenizer_name or name}"):
            if config.tokenizer_name:
                tokenizer = AutoTokenizer.from_pretrained(config.tokenizer_name, **where)
            else:
                tokenizer = AutoTokenizer.from_pretrained(name, subfolder="tokenizer", **where)
        with _naming(f"the scheduler of {name}"):
            scheduler = DDPMScheduler.from_pretrained(name, subfolder="scheduler", **where)
        # The order is that of diffusers' scripts, as each load may draw random numbers.
        classes = {"text_encoder": CLIPTextModel, "vae": AutoencoderKL, "unet": UNet2DConditionModel}
        parts = {part: _load_part(kind, name, part, config) for part, kind in classes.items()}
        positions = parts["text_encoder"].config.max_position_embeddings
        if (config.tokenizer_max_length or 0) > positions:
            raise UserError(f"--tokenizer_max_length {config.tokenizer_max_length} must be at most {positions}")
        return cls(config, tokenizer, scheduler, **parts)

    @staticmethod
    def cell_of(config: ModelConfig) -> int:
        """Side of a latent cell in pixels, read from the autoencoder's config alone."""
        name = str(config.pretrained_model_name_or_path)
        with _naming(f"the vae of {name}"):
            vae = AutoencoderKL.load_config(name, subfolder="vae", revision=config.revision)
            return int(2 ** (len(vae["block_out_channels"]) - 1))

    def _freeze(self) -> None:
        """Leave gradients only where something is to be learned; hang LoRA adapters on."""
        config = self.config
        lora, text = config.use_lora, config.train_text_encoder
        self.vae.requires_grad_(False)
        self.unet.requires_grad_(not lora)
        self.text_encoder.requires_grad_(text and not lora)
        if config.enable_xformers_memory_efficient_attention:
            if not is_xformers_available():
                raise UserError("--enable_xformers_memory_efficient_attention needs `pip install xformers`")
            self.unet.enable_xformers_memory_efficient_attention()
        if config.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
            if text:
                self.text_encoder.gradient_checkpointing_enable()
        if lora:
            self.unet.add_adapter(self._lora(UNET_TARGETS))
            if text:
                self.text_encoder.add_adapter(self._lora(TEXT_ENCODER_TARGETS))

    def _lora(self, targets: list[str]) -> LoraConfig:
        rank = cast(int, self.config.rank)  # resolved by the config, since --use_lora is on
        return LoraConfig(
            r=rank,
            lora_alpha=rank if self.config.lora_alpha is None else self.config.lora_alpha,
            use_dora=self.config.use_dora,
            lora_dropout=self.config.lora_dropout or 0.0,
            init_lora_weights="gaussian",
            target_modules=targets,
        )

    def trained(self) -> dict[str, nn.Module]:
        """See `Family.trained`."""
        parts: dict[str, nn.Module] = {"unet": self.unet}
        if self.config.train_text_encoder:
            parts["text_encoder"] = self.text_encoder
        return parts

    def replace(self, parts: dict[str, nn.Module]) -> None:
        """See `Family.replace`."""
        for name, part in parts.items():
            setattr(self, name, part)

    def keep_base(self) -> None:
        """See `Family.keep_base`; LoRA keeps nothing, since its adapters can be switched off."""
        if not self.config.use_lora:
            self.base = {
                name: copy.deepcopy(part).requires_grad_(False).eval() for name, part in self.trained().items()
            }

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """See `Family.place`."""
        for name in ("vae", "unet", "text_encoder"):
            part = getattr(self, name).to(device)
            whole = name in self.trained() and not self.config.use_lora
            if dtype != torch.float32 and not whole:
                part.to(dtype=dtype)
        if dtype != torch.float32:
            cast_training_params(list(self.trained().values()), dtype=torch.float32)
        for part in self.base.values():
            part.to(device, dtype)
            if dtype != torch.float32:  # so that it computes as the trained one does, which Accelerate wraps
                part.forward = torch.autocast(device.type, dtype)(part.forward)  # type: ignore[method-assign]

    def tokenize(self, prompt: str) -> Conditioning:
        """See `Family.tokenize`."""
        tokens = self.tokenizer(
            prompt,
            truncation=True,
            padding="max_length",
            max_length=self.config.tokenizer_max_length or self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}

    def encode_prompt(self, tokens: Conditioning) -> Conditioning:
        """See `Family.encode_prompt`."""
        if "embeds" in tokens:
            return tokens
        use_mask = self.config.text_encoder_use_attention_mask
        device = next(self.text_encoder.parameters()).device
        embeds = self.text_encoder(
            tokens["input_ids"].to(device),
            attention_mask=tokens["attention_mask"].to(device) if use_mask else None,
            return_dict=False,
        )[0]
        return {"embeds": embeds}

    def drop_text_encoder(self) -> None:
        """See `Family.drop_text_encoder`."""
        self.text_encoder = None

    def encode_latents(self, pixels: Tensor) -> Tensor:
        """See `Family.encode_latents`."""
        with torch.no_grad():
            latents = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.sample()
        return latents * self.vae.config.scaling_factor

    def add_noise(self, latents: Tensor, offset_noise: bool) -> Noised:
        """See `Family.add_noise`; an offset is 0.1 of a normal number a channel, as in diffusers."""
        noise = torch.randn_like(latents)
        if offset_noise:
            noise = noise + 0.1 * torch.randn(*latents.shape[:2], 1, 1, device=latents.device)
        steps = self.scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, steps, (len(latents),), device=latents.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        is_velocity = self.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(latents, noise, timesteps) if is_velocity else noise
        return Noised(noisy, timesteps, target)

    def predict(self, noised: Noised, conditioning: Conditioning) -> Tensor:
        """See `Family.predict`."""
        labels = noised.timesteps if self.config.class_labels_conditioning == "timesteps" else None
        embeds = conditioning["embeds"]
        return self.unet(noised.noisy, noised.timesteps, embeds, class_labels=labels, return_dict=False)[0]

    @torch.no_grad()
    def predict_base(self, noised: Noised, tokens: Conditioning) -> Tensor:
        """See `Family.predict_base`."""
        trained = self.trained()
        with ExitStack() as stack:
            if self.config.use_lora:
                for part in trained.values():
                    stack.enter_context(_without_adapters(part))
            else:
                stack.callback(self.replace, trained)
                self.replace({name: self.base[name] for name in trained})
            return self.predict(noised, self.encode_prompt(tokens))

    def snr(self, timesteps: Tensor) -> Tensor:
        """See `Family.snr`."""
        return compute_snr(self.scheduler, timesteps)

    def pipeline(self) -> StableDiffusionPipeline:
        """See `Family.pipeline`."""
        text_encoder = self.text_encoder
        if text_encoder is None:
            text_encoder = _load_part(CLIPTextModel, self.base_model, "text_encoder", self.config)
        return StableDiffusionPipeline.from_pretrained(
            self.base_model,
            unet=_unwrapped(self.unet),
            vae=self.vae,
            text_encoder=_unwrapped(text_encoder),
            tokenizer=self.tokenizer,
            safety_checker=None,
            requires_safety_checker=False,
            revision=self.config.revision,
            variant=self.config.variant,
        )

    def save(self, folder: Path, skip_text_encoder: bool = False) -> None:
        """See `Family.save`."""
        if self.config.use_lora:
            self._save_lora(folder)
            return
        parts: dict[str, Any] = {"unet": _unwrapped(self.unet)}
        if skip_text_encoder:
            parts["text_encoder"] = None
        elif self.config.train_text_encoder:
            parts["text_encoder"] = _unwrapped(self.text_encoder)
        pipeline = StableDiffusionPipeline.from_pretrained(
            self.base_model, revision=self.config.revision, variant=self.config.variant, **parts
        )
        pipeline.to(torch.float32).save_pretrained(folder)  # a base stored in fp16 would mix precisions

    def save_weights(self, folder: Path) -> None:
        """See `Family.save_weights`."""
        if self.config.use_lora:
            self._save_lora(folder)
            return
        for name, part in self.trained().items():
            _unwrapped(part).save_pretrained(folder / name)

    def load_weights(self, folder: Path) -> None:
        """See `Family.load_weights`."""
        unet = _unwrapped(self.unet)
        if not self.config.use_lora:
            unet.load_state_dict(UNet2DConditionModel.from_pretrained(folder / "unet").state_dict())
            if self.config.train_text_encoder:
                stored = CLIPTextModel.from_pretrained(folder / "text_encoder")
                _unwrapped(self.text_encoder).load_state_dict(stored.state_dict())
            return
        state, _ = StableDiffusionPipeline.lora_state_dict(folder, weight_name=LORA_NAME)
        of_unet = {key.removeprefix("unet."): value for key, value in state.items() if key.startswith("unet.")}
        set_peft_model_state_dict(unet, convert_unet_state_dict_to_peft(of_unet), adapter_name="default")
        if self.config.train_text_encoder:
            _set_state_dict_into_text_encoder(state, "text_encoder.", _unwrapped(self.text_encoder))

    def _save_lora(self, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors`, which `load_lora_weights` takes."""
        parts = {name: _unwrapped(part) for name, part in self.trained().items()}
        layers = {
            name: convert_state_dict_to_diffusers(get_peft_model_state_dict(part)) for name, part in parts.items()
        }
        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers=layers["unet"],
            text_encoder_lora_layers=layers.get("text_encoder"),
            weight_name=LORA_NAME,
            # Without it a reader takes alpha for the rank, and draws another model where it is not.
            **_collate_lora_metadata(parts),
        )


def _unwrapped(module: Any) -> Any:
    """The module inside what Accelerate and torch.compile wrap around it."""
    return extract_model_from_parallel(module, keep_torch_compile=False)


@contextmanager
def _without_adapters(module: nn.Module) -> Iterator[None]:
    """Inside, a model that trains LoRA adapters is its base: adapters and dropout off."""
    inner, modes = _unwrapped(module), {one: one.training for one in module.modules()}
    try:
        module.eval()
        inner.disable_adapters()
        yield
    finally:
        inner.enable_adapters()
        for one, training in modes.items():
            one.training = training


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Turn whatever goes wrong while a part is loaded into one line that names the part."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # missing, damaged and foreign files each raise something else
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{what} cannot be loaded ({reason}); check the name, or download it again") from error


def _load_part(kind: Any, name: str, part: str, config: ModelConfig) -> Any:
    """One model of the pipeline in float32, refused where weights are missing: the libraries would draw them anew."""
    with _naming(f"the {part} of {name}"):
        model, report = kind.from_pretrained(
            name, subfolder=part, revision=config.revision, variant=config.variant, output_loading_info=True
        )
        if report["missing_keys"]:
            raise UserError(
                f"the {part} of {name} lacks {len(report['missing_keys'])} of its weights (for example "
                f"{sorted(report['missing_keys'])[0]}); download it again"
            )
    return model.float()
