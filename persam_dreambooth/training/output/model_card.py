"""The model card: the model, its training data, how to use it, and its last validation pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from persam_dreambooth import learned_tokens
from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.model_folder import ADAPTER_NAMES, CONFIG_NAME, EMBEDDINGS_NAME, LORA_NAME, adapter_folders
from persam_dreambooth.photos.manifest import MANIFEST_NAME
from persam_dreambooth.single_file import is_single_file
from persam_dreambooth.training.config import TrainingConfig, without_folders
from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.data.mask_report import MASKS_NAME, CheckedMask
from persam_dreambooth.training.output.best_checkpoint import BestCheckpoint

CARD_NAME = "README.md"  # where the hub looks for it


@dataclass(frozen=True)
class Card:
    """Content of a model card.

    Attributes:
        config: the run's flags.
        concepts: the subjects; at least one.
        masks: the checks of the masks; empty without masks.
        pictures: the newest validation pictures, inside the output folder.
        family: of the base model, such as `StableDiffusion`.
        best: which checkpoint is the best and why; None if none was chosen.
    """

    config: TrainingConfig
    concepts: Sequence[Concept]
    masks: Sequence[CheckedMask]
    pictures: Sequence[Path]
    family: str
    best: BestCheckpoint | None = None

    @property
    def prompts(self) -> list[str]:
        """The subjects' prompts, without captions of single photos."""
        return [concept.prompt for concept in self.concepts if concept.prompt]

    def save(self, folder: Path, public: bool = False) -> None:
        """Write `README.md` into a folder; `public` omits what only the owner of the photos may see."""
        with replacing(folder / CARD_NAME) as temporary:
            ModelCard(self._text(public)).save(temporary)

    def _text(self, public: bool) -> str:
        output = Path(self.config.output.output_dir)
        sections = [
            f"---\n{self._header().to_yaml()}\n---",
            f"# {output.resolve().name}",
            self._summary(public),
            f"## Use\n\n```python\n{self._usage(public)}\n```",
            self._subject(),
        ]
        if self.masks and (not public or self.config.output.push_masks_to_hub):
            sections.append(f"## Masks\n\n![the photos under their masks]({MASKS_NAME})")
        if self.best:
            sections.append(f"## Checkpoints\n\nBest: `{self.best.folder.name}`. {self.best.reason}.")
        if self.pictures:
            gallery = "\n".join(f"![{path.stem}]({path.relative_to(output).as_posix()})" for path in self.pictures)
            prompts = "".join(f"- *{prompt}*\n" for prompt in self.config.validation.last_prompts)
            sections.append(f"## Validation images\n\n{prompts}\n{gallery}")
        return "\n\n".join(sections) + "\n"

    def _header(self) -> ModelCardData:
        model, base = self.config.model, str(self.config.model.pretrained_model_name_or_path)
        kind = "stable-diffusion" if self.family.startswith("StableDiffusion") else self.family.lower()
        tags = ["text-to-image", "diffusers", kind, "dreambooth", "persam"]
        method = [model.adapter_type] if model.use_lora else ["textual_inversion"] if model.new_words else []
        return ModelCardData(
            base_model=None if Path(base).exists() else base,  # the hub accepts only its own names
            library_name="diffusers",
            pipeline_tag="text-to-image",
            instance_prompt=self.prompts[0] if self.prompts else None,
            tags=[*tags, *method],
        )

    def _base(self, public: bool) -> str:
        base = str(self.config.model.pretrained_model_name_or_path)
        return without_folders(base) if public else base

    def _summary(self, public: bool) -> str:
        model, mask = self.config.model, self.config.mask
        kind = f"{ADAPTER_NAMES[model.adapter_type]} adapters" if model.use_lora else "A full fine-tune"
        with_text = ", text encoder included" if model.train_text_encoder else ""
        if model.new_words:
            words = f"embeddings (textual inversion) of the new words {', '.join(model.new_words)}"
            with_text = f", with learned {words}" if model.use_lora else ""
            kind = kind if model.use_lora else f"Learned {words} for the text encoders"
        masked = "The loss was taken over whole photos (no masks)."
        if mask.masked_loss:
            weight = mask.background_prior_weight
            prior = f", background prior weight {weight:g}" if weight else ""
            weight = mask.attention_loss_weight
            prior += f", attention loss weight {weight:g}" if weight else ""
            listed = "" if public else f"; the masks are listed in `{MANIFEST_NAME}`"
            masked = (
                f"The loss was taken over the subject only ({mask.mask_normalization} normalization, "
                f"background weight {mask.background_weight:g}{prior}){listed}."
            )
        subjects = " and ".join(f"*{prompt}*" for prompt in self.prompts) or "captioned photos"
        return f"{kind} of `{self._base(public)}` on\n{subjects}{with_text}. {masked}\nAll settings: `{CONFIG_NAME}`."

    def _usage(self, public: bool) -> str:
        """Return the lines that load this model with diffusers."""
        output = self.config.output
        here = output.hub_model_id or Path(output.output_dir).resolve().name if public else "this folder"
        subject = self.prompts[0] if self.prompts else "a photo"
        prompt = repr(f"{subject} in the jungle")
        imports = ["import torch", "from diffusers import DiffusionPipeline"]
        load = [f"pipeline = DiffusionPipeline.from_pretrained({here!r}, torch_dtype=torch.float32)"]
        if self.config.model.frozen_base and is_single_file(str(self.config.model.pretrained_model_name_or_path)):
            imports, load = self._from_single_file(here, public)
        elif self.config.model.frozen_base:
            base = self._base(public)
            named = {"revision": self.config.model.revision, "variant": self.config.model.variant}
            more = "".join(f", {name}={value!r}" for name, value in named.items() if value)
            # The base's parts may be stored in different precisions, and the LoRA is float32.
            load = [f"pipeline = DiffusionPipeline.from_pretrained({base!r}, torch_dtype=torch.float32{more})"]
            others = [path.name for path in adapter_folders(Path(output.output_dir))]
            load += [f"PeftModel.from_pretrained(pipeline.{part}, {here!r}, subfolder={part!r})" for part in others]
            if others:
                imports.append("from peft import PeftModel")
            elif self.config.model.use_lora:
                load.append(f"pipeline.load_lora_weights({here!r}, weight_name={LORA_NAME!r})")
        if self.config.model.new_words:
            names, lines, spelled = self._embeddings(here, public)
            imports, load = [*imports, *names], [*load, *lines]
            # T5 without new tokens reads the words as they are.
            more = f", prompt_2={prompt}" if self.family == "Flux" and not self.config.model.enable_t5_ti else ""
            prompt += "".join(f".replace({word!r}, {token!r})" for word, token in spelled.items()) + more
        return "\n".join([*imports, "", *load, f"image = pipeline(prompt={prompt}).images[0]"])

    def _embeddings(self, here: str, public: bool) -> tuple[list[str], list[str], dict[str, str]]:
        """Return the imports and lines that load the learned embeddings, and what stands for each word in prompts.

        diffusers loads tokens <s0>, <s1> and so on. It could not spell out words in upper case, whose tokens it
        finds in lower case.
        """
        words, rows = learned_tokens.read(Path(self.config.output.output_dir))
        numbers = iter(range(sum(words.values())))
        tokens = {word: [f"<s{next(numbers)}>" for _ in range(count)] for word, count in words.items()}
        imports = ["from safetensors.torch import load_file"]
        file = f"{here!r} + '/{EMBEDDINGS_NAME}'"
        if public:
            imports.insert(0, "from huggingface_hub import hf_hub_download")
            file = f"hf_hub_download({here!r}, {EMBEDDINGS_NAME!r})"
        load = [f"embeddings, tokens = load_file({file}), {[token for own in tokens.values() for token in own]}"]
        for key in rows:
            number = "" if key == "clip_l" else "_2"
            parts = f"pipeline.tokenizer{number}, pipeline.text_encoder{number}"
            load.append(f"pipeline.load_textual_inversion(embeddings[{key!r}], tokens, {parts})")
        return imports, load, {word: "".join(own) for word, own in tokens.items()}

    def _from_single_file(self, here: str, public: bool) -> tuple[list[str], list[str]]:
        """Return the imports and lines that load a LoRA, or only its base model, from a single file."""
        config = self.config.model.single_file_config
        config = without_folders(config) if public else config
        named = f", single_file_config={config!r}" if config else ""
        load = [f"pipeline = load_pipeline({self._base(public)!r}{named})"]
        if self.config.model.use_lora:
            load.append(f"pipeline.load_lora_weights({here!r}, weight_name={LORA_NAME!r})")
        return ["from persam_dreambooth import load_pipeline"], load

    def _subject(self) -> str:
        """Return a table of prompts, class images and photos."""
        rows = []
        for concept in self.concepts:
            rows.append(("instance prompt", f"*{concept.prompt}*" if concept.prompt else "captions"))
            if concept.class_prompt:
                rows.append(("class prompt", f"*{concept.class_prompt}*"))
            if concept.num_class_images:
                weight = self.config.data.prior_loss_weight
                rows.append(("class images", f"{concept.num_class_images}, weight {weight:g}"))
        if self.masks:
            low, high = (extreme(check.coverage for check in self.masks) for extreme in (min, max))
            rows.append(("photos", f"{len(self.masks)}; the subject covers {low:.0%} to {high:.0%} of them"))
        lines = "\n".join(f"| {name} | {value.replace('|', '&#124;')} |" for name, value in rows)
        return f"## Subject and prompts\n\n| | |\n| --- | --- |\n{lines}"
