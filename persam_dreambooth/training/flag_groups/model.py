"""Flags of the base model and of how it is fine-tuned."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from persam_dreambooth import model_folder
from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import Flags, flag

TOKEN_LIMITS = (150, 225)
"""Values of `--max_token_length`, those of sd-scripts' flag."""


@dataclass
class ModelConfig(Flags):
    """The base model and how it is fine-tuned."""

    _argument_group_name: ClassVar[str] = "model"

    pretrained_model_name_or_path: str | None = flag(
        None, "the base model: hub name or folder of a pipeline, or a single .safetensors file such as Civitai's"
    )
    single_file_config: str | None = flag(
        None,
        "with a single file: hub name or folder of a diffusers pipeline of the same kind, for the configs and "
        "tokenizers, and for parts that the file lacks; if unset, the model's original release on the hub",
    )
    revision: str | None = flag(None, "branch, tag or commit of the base model on the hub")
    variant: str | None = flag(None, "variant of the base model's weight files, such as fp16")
    pretrained_vae_model_name_or_path: str | None = flag(
        None,
        "an autoencoder to use instead of the base model's, such as madebyollin/sdxl-vae-fp16-fix: name or folder",
    )
    tokenizer_name: str | None = flag(None, "a tokenizer to use instead of the base model's: hub name or folder")
    tokenizer_max_length: int | None = flag(
        None, "number of tokens that a prompt is padded or truncated to; the tokenizer's own if unset", min=2
    )
    max_token_length: int | None = flag(
        None,
        "Stable Diffusion 1.x, 2.x and XL: read prompts of up to 150 or 225 tokens, in chunks of 75, as sd-scripts "
        "does; 75 if unset",
    )
    max_sequence_length: int | None = flag(
        None,
        "number of tokens for the long text encoder (T5 or a language model): 77 with SD 3, 256 with Lumina 2 and 512 "
        "with the others if unset",
        min=2,
    )
    guidance_scale: float = flag(
        3.5, "guidance that Flux.1-dev and Flux.2 are conditioned on during training, as in diffusers' scripts", min=0
    )
    train_text_encoder: bool = flag(False, "train the text encoder too")
    train_text_encoder_ti: bool = flag(
        False,
        "Stable Diffusion 1.x, 2.x, XL and Flux.1: textual inversion: put new tokens into the text encoders and learn "
        "their embeddings, together with LoRA if --use_lora is on (pivotal tuning), otherwise alone",
    )
    enable_t5_ti: bool = flag(
        False, "Flux.1, with --train_text_encoder_ti: put the new tokens into T5 too, and not only into CLIP"
    )
    train_text_encoder_ti_frac: float | None = flag(
        None,
        "with --use_lora: share of the steps after which the new embeddings are no longer learned; 0.5 if unset",
        min=0,
        max=1,
    )
    token_abstraction: str | None = flag(
        None,
        "the word in the prompts that stands for the new tokens, several separated by commas, such as TOK1,TOK2; TOK "
        "if unset",
    )
    num_new_tokens_per_abstraction: int | None = flag(
        None, "number of new tokens for each such word; 2 if unset", min=1, max=75
    )
    initializer_concept: str | None = flag(
        None,
        "words whose embeddings the new ones begin with, such as dog, as many tokens as they have; random if unset",
    )
    use_lora: bool = flag(False, "train LoRA adapters instead of all weights")
    adapter_type: Literal["lora", "loha", "lokr", "oft"] = flag(
        "lora", "with --use_lora: the kind of adapters; those other than LoRA are saved in peft's own format"
    )
    rank: int | None = flag(None, "rank of the adapters; with oft, the number of blocks; 4 if unset", min=1)
    lora_alpha: int | None = flag(None, "the adapters are scaled by alpha / rank; the rank if unset", min=1)
    use_dora: bool = flag(
        False, "DoRA: LoRA that learns the magnitude of each weight vector separately from its direction"
    )
    lora_dropout: float | None = flag(None, "dropout inside the LoRA adapters; 0 if unset", min=0, max=1)
    lora_layers: str | None = flag(
        None,
        "with LoRA: which layers of the UNet or transformer to adapt, by the last parts of their names, such as "
        "to_q,to_k; if unset, those of diffusers' script",
    )
    lora_blocks: str | None = flag(
        None, "with LoRA and SD 3: numbers of the transformer's blocks to adapt, such as 12,30; all if unset"
    )
    network_weights: str | None = flag(
        None, "with LoRA: start from these weights, a .safetensors file in diffusers' format or an output folder"
    )
    quantize: Literal["int8", "fp8"] | None = flag(
        None,
        "with LoRA: store the base model's frozen linear layers in 8 bits, integers or floats (needs torchao): "
        "half the memory of bf16",
    )
    bnb_quantization_config_path: str | None = flag(
        None,
        "with LoRA: JSON file of bitsandbytes settings, such as load_in_4bit, with which the base model is stored "
        "(needs bitsandbytes and a GPU)",
    )
    layerwise_upcasting_storage_dtype: Literal["float8_e4m3fn", "float8_e5m2"] | None = flag(
        None,
        "with LoRA and --gradient_checkpointing: store the base model's frozen linear layers in 8-bit floats without "
        "a scale, and cast each one up while it computes; --quantize fp8 is more accurate, this works with single "
        "files and without torchao",
    )
    do_fp8_training: bool = flag(
        False,
        "multiply in 8-bit floats, with weights kept as they are (needs torchao and a GPU of compute capability 8.9 "
        "or higher, such as an RTX 4090 or H100)",
    )
    gradient_checkpointing: bool = flag(False, "save memory, at the cost of about a third more time")
    enable_xformers_memory_efficient_attention: bool = flag(False, "compute attention with xformers")
    pre_compute_text_embeddings: bool = flag(False, "encode the prompts once and drop the text encoder")
    offload: bool = flag(
        False,
        "keep the autoencoder and frozen text encoders in main memory, and move them to the GPU only while they "
        "encode, or for validation images; the UNet or transformer follows when the caches are filled",
    )
    text_encoder_use_attention_mask: bool = flag(False, "mask out padding tokens in the text encoder")
    class_labels_conditioning: Literal["timesteps"] | None = flag(
        None, "timesteps: the class labels that a UNet with class embeddings gets, as in diffusers' scripts"
    )

    def __post_init__(self) -> None:
        if not self.pretrained_model_name_or_path:
            raise UserError("--pretrained_model_name_or_path is missing; give a hub name or the folder of a pipeline")
        self._check_token_length()
        self._check_single_file(self.pretrained_model_name_or_path)
        if self.network_weights:
            self._start_from_weights(self.network_weights)
        if self.use_lora:
            self.rank = 4 if self.rank is None else self.rank
            self.lora_dropout = 0.0 if self.lora_dropout is None else self.lora_dropout
        elif self.rank is not None or self.lora_dropout is not None:
            raise UserError(
                "--rank and --lora_dropout are for LoRA; add --use_lora, or drop them to train all weights"
            )
        elif self.lora_alpha is not None or self.use_dora:
            raise UserError(
                "--lora_alpha and --use_dora are for LoRA; add --use_lora, or drop them to train all weights"
            )
        elif self.lora_layers is not None or self.lora_blocks is not None:
            raise UserError(
                "--lora_layers and --lora_blocks are for LoRA; add --use_lora, or drop them to train all weights"
            )
        super().__post_init__()
        self._check_textual_inversion()
        if self.adapter_type != "lora":
            self._check_other_adapters()
        self._check_quantization()
        if self.use_dora and self.train_text_encoder:
            # When transformers loads DoRA into a text encoder it drops the norms, and only warns.
            raise UserError("--use_dora and --train_text_encoder exclude each other; drop one")
        if self.train_text_encoder and self.pre_compute_text_embeddings:
            raise UserError("--train_text_encoder and --pre_compute_text_embeddings exclude each other; drop one")

    def _check_token_length(self) -> None:
        if self.max_token_length is None:
            return
        if self.max_token_length not in TOKEN_LIMITS:
            raise UserError(
                f"--max_token_length {self.max_token_length} must be 150 or 225; drop it to read 75 tokens"
            )
        for name in ("tokenizer_max_length", "text_encoder_use_attention_mask"):
            if getattr(self, name):
                raise UserError(f"--max_token_length and --{name} exclude each other; drop one")

    def _check_single_file(self, name: str) -> None:
        """Refuse flags about a base model on the hub with a single file, and the other way round."""
        path = Path(name)
        is_file = path.is_file() or path.suffix == ".safetensors"
        if self.single_file_config and not is_file:
            raise UserError(
                f"--single_file_config is about a base model in a single file, which {name} is not; drop it"
            )
        given = [flag_name for flag_name in ("revision", "variant") if getattr(self, flag_name)]
        if given and path.is_file():
            raise UserError(f"--{given[0]} is about a base model on the hub, and {name} is a file; drop it")

    @property
    def frozen_base(self) -> bool:
        """Whether the base model's own weights stay as they are: adapters or new tokens are learned beside them."""
        return self.use_lora or self.train_text_encoder_ti

    @property
    def new_words(self) -> list[str]:
        """The words of `--token_abstraction`, in their order; none without `--train_text_encoder_ti`."""
        words = (self.token_abstraction or "").split(",") if self.train_text_encoder_ti else []
        return [word.strip() for word in words]

    def _check_textual_inversion(self) -> None:
        """Set the defaults of textual inversion, or refuse its flags without it."""
        names = ("train_text_encoder_ti_frac", "token_abstraction", "num_new_tokens_per_abstraction")
        if not self.train_text_encoder_ti:
            for name in (*names, "initializer_concept", "enable_t5_ti"):
                if getattr(self, name) not in (None, False):
                    raise UserError(f"--{name} is about textual inversion; add --train_text_encoder_ti, or drop it")
            return
        if not self.use_lora and self.train_text_encoder_ti_frac is not None:
            raise UserError(
                "--train_text_encoder_ti_frac would end the training, since nothing else is learned; add --use_lora, "
                "or drop it"
            )
        excluded = {
            "train_text_encoder": "which trains the text encoders themselves",
            "pre_compute_text_embeddings": "which encodes the prompts only once",
            "network_weights": "which holds no embeddings of new tokens",
        }
        for name, reason in excluded.items():
            if getattr(self, name):
                raise UserError(f"--train_text_encoder_ti and --{name}, {reason}, exclude each other; drop one")
        if self.initializer_concept is not None and self.num_new_tokens_per_abstraction is not None:
            raise UserError(
                "--initializer_concept, whose words give the number of tokens, and --num_new_tokens_per_abstraction "
                "exclude each other; drop one"
            )
        if self.initializer_concept is None and self.num_new_tokens_per_abstraction is None:
            self.num_new_tokens_per_abstraction = 2
        if self.use_lora and self.train_text_encoder_ti_frac is None:
            self.train_text_encoder_ti_frac = 0.5
        self.token_abstraction = "TOK" if self.token_abstraction is None else self.token_abstraction
        self._check_words()

    def _check_words(self) -> None:
        """Refuse what is not one word, and words that are parts of others."""
        words = self.new_words
        said = f"--token_abstraction {self.token_abstraction}"
        for word in words:
            if len(word.split()) != 1:
                raise UserError(f"{said}: {word!r} is not one word; give one word a subject, separated by commas")
            inside = [other for number, other in enumerate(words) if word in other and number != words.index(word)]
            if inside:  # diffusers' pipelines would replace it there too
                raise UserError(f"{said}: {word} is a part of {inside[0]}; give others, such as TOK1,TOK2")

    def _check_other_adapters(self) -> None:
        """Refuse flags that adapters other than LoRA do not have."""
        if not self.use_lora:
            raise UserError(f"--adapter_type {self.adapter_type} needs --use_lora; add it, or train all weights")
        others = {
            "use_dora": self.use_dora,
            "lora_dropout": self.lora_dropout,
            "network_weights": self.network_weights,
            "lora_alpha": self.adapter_type == "oft" and self.lora_alpha is not None,
        }
        for name, given in others.items():
            if given:
                raise UserError(f"--{name} has no use with --adapter_type {self.adapter_type}; drop one")

    def _check_quantization(self) -> None:
        """Refuse to store weights in fewer bits that are trained or come from a single file, or to do it twice."""
        names = ("quantize", "bnb_quantization_config_path", "layerwise_upcasting_storage_dtype")
        given = [name for name in names if getattr(self, name)]
        if given and self.do_fp8_training:
            given.insert(0, "do_fp8_training")
        if len(given) > 1:
            raise UserError(f"--{given[0]} and --{given[1]} exclude each other; drop one")
        if not given:
            return
        (name,) = given
        if not self.frozen_base:
            raise UserError(f"--{name} is for a frozen base model; add --use_lora, or drop it to train all weights")
        if self.adapter_type != "lora":
            raise UserError(f"--{name} and --adapter_type {self.adapter_type} exclude each other; drop one")
        if name == "layerwise_upcasting_storage_dtype":
            if self.use_dora:  # whose norms are computed from the stored weights
                raise UserError(f"--{name} and --use_dora exclude each other; drop one")
            if not self.gradient_checkpointing:
                raise UserError(
                    f"--{name} saves nothing without --gradient_checkpointing, since every layer that was cast up is "
                    "kept for the backward pass; add it"
                )
        elif Path(str(self.pretrained_model_name_or_path)).is_file():
            raise UserError(f"--{name} needs the folder or hub name of a pipeline, not a single file; drop it")

    def _start_from_weights(self, name: str) -> None:
        """Take rank and alpha from an existing LoRA, and refuse others."""
        if not self.use_lora:
            raise UserError("--network_weights is for LoRA; add --use_lora, or drop them to train all weights")
        rank, alpha = model_folder.rank_and_alpha(name, self.use_dora)
        for flag_name, given, its in (("rank", self.rank, rank), ("lora_alpha", self.lora_alpha, alpha)):
            if given is not None and given != its:
                raise UserError(
                    f"--{flag_name} {given}: the LoRA {name} has {flag_name.removeprefix('lora_')} {its}; drop "
                    f"--{flag_name}, which is then read from it"
                )
        self.rank, self.lora_alpha = rank, alpha
