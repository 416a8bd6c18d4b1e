"""Flags of the photos, the prompts and prior preservation."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import Flags, flag
from persam_dreambooth.photos.listing import repeated_folders
from persam_dreambooth.text_files import check_caption_extension


@dataclass
class DataConfig(Flags):
    """Photos and prompts."""

    _argument_group_name: ClassVar[str] = "photos and prompts"

    instance_data_dir: str | None = flag(
        None, "folder with the 3 to 5 photos of the subject, or with kohya's folders such as 10_dog"
    )
    instance_prompt: str | None = flag(None, 'prompt with the identifier, such as "a sks dog"')
    caption_extension: str | None = flag(
        None,
        "extension of caption files, such as .txt: a photo with one next to it uses it instead of --instance_prompt",
    )
    concepts_list: str | None = flag(
        None,
        "several subjects: a JSON or YAML file with a list of entries, each with instance_data_dir, instance_prompt, "
        "instance_mask_dir and so on; the flags are the defaults for each entry",
    )
    dataset_name: str | None = flag(
        None,
        "a data set instead of a folder of photos: hub name or folder; its train split is copied to the output",
    )
    dataset_config_name: str | None = flag(None, "the data set's configuration")
    image_column: str = flag("image", "the data set's column of photos")
    mask_column: str | None = flag(None, "the data set's column of masks")
    region_columns: list[str] = flag(
        [],
        "instead of --mask_column, for several subjects in the same photos: WORDS=COLUMN for each subject, "
        "with its words in the prompts and the data set's column of its masks, such as 'sks dog=dog_mask'; a "
        "photo without a mask there does not show it",
    )
    caption_column: str | None = flag(None, "the data set's column of prompts; --instance_prompt for all if unset")
    cache_dir: str | None = flag(None, "folder for downloaded data sets")
    repeats: int = flag(1, "how often an epoch shows each photo; multiplied by the repeats of kohya's folders", min=1)
    caption_dropout: float = flag(
        0.0,
        "probability that a photo's prompt is left empty, drawn each time the photo is used, for classifier-free "
        "guidance; class images keep their prompts; 0.1 is usual",
        min=0,
        max=1,
    )
    with_prior_preservation: bool = flag(
        False, "prior preservation: also train on class images, so that other dogs do not turn into yours"
    )
    prior_loss_weight: float = flag(1.0, "weight of the class images' loss", min=0)
    class_data_dir: str | None = flag(None, "folder of class images; missing ones are generated into it")
    class_prompt: str | None = flag(
        None,
        'prompt without the identifier, such as "a dog"; auto: "a" and the noun that `persam-dreambooth segment '
        "--suggest_class` stored in --instance_mask_dir",
    )
    num_class_images: int = flag(100, "number of class images", min=1)
    sample_batch_size: int = flag(4, "number of class images generated at once", min=1)
    prior_generation_precision: Literal["no", "fp32", "fp16", "bf16"] | None = flag(
        None, "precision while class images are generated; fp16 on a GPU if unset"
    )
    resolution: int = flag(
        512, "photos are resized to cover a square of this many pixels a side, then cropped to it", min=1
    )
    image_interpolation_mode: Literal["bilinear", "bicubic", "lanczos"] | None = flag(
        None,
        "how photos are resized; if unset, as in diffusers' scripts: lanczos with LoRA, otherwise bilinear",
    )
    center_crop: bool = flag(
        False,
        "crop the centre instead of a random position; either crop is moved if it would cut off part of the subject",
    )
    aspect_ratio_buckets: str | None = flag(
        None, 'crop photos to the nearest of several shapes instead of a square: auto, or "height,width;height,width"'
    )
    # diffusers' switch for the flag above
    use_aspect_ratio_buckets: bool = flag(False, "--aspect_ratio_buckets auto", hidden=True)
    random_flip: bool = flag(False, "mirror half of the photos, together with their masks")
    background_images: str | None = flag(
        None, "folder of pictures without the subject; each time a photo is used, a random one replaces its background"
    )
    cache_latents: bool = flag(
        False, "encode photos and class images before training, then remove the autoencoder from the device"
    )
    cached_crops: int = flag(
        4,
        "with --cache_latents: cached versions (random crops and flips) of each photo; 1 if nothing is random",
        min=1,
    )
    training_cache: str | None = flag(
        None, "folder that keeps the results of --cache_latents and --pre_compute_text_embeddings for the next run"
    )
    train_batch_size: int = flag(4, "photos per step and process", min=1)
    dataloader_num_workers: int = flag(0, "processes that read photos; 0 reads them in the training process", min=0)

    def __post_init__(self) -> None:
        if self.dataset_name and (self.instance_data_dir or self.concepts_list):
            raise UserError("--dataset_name brings the photos; drop it, or --instance_data_dir and --concepts_list")
        of_datasets = ("dataset_config_name", "mask_column", "region_columns", "caption_column", "cache_dir")
        given = [f"--{name}" for name in of_datasets if getattr(self, name)]
        if given and not self.dataset_name:
            raise UserError(f"{given[0]} needs a data set; give --dataset_name, or drop it")
        self._check_regions()
        if self.caption_extension is not None:
            check_caption_extension(self.caption_extension)
        if self.use_aspect_ratio_buckets:
            self.aspect_ratio_buckets = self.aspect_ratio_buckets or "auto"
        super().__post_init__()

    @property
    def columns(self) -> dict[str, str]:
        """The columns of `--region_columns` by their words."""
        return {words.strip(): column for words, _, column in (pair.partition("=") for pair in self.region_columns)}

    def _check_regions(self) -> None:
        """Refuse regions that cannot be folders of masks."""
        for words, column in self.columns.items():
            if not column or not words or Path(words).name != words or words.startswith(".") or words == "masks":
                raise UserError(
                    f"--region_columns {words}={column} is not WORDS=COLUMN with words that can name a folder; give "
                    "such as 'sks dog=dog_mask'"
                )
        if len(self.columns) < len(self.region_columns):
            raise UserError(f"--region_columns {' '.join(self.region_columns)} names a subject twice; drop one")

    def check_photos(self) -> None:
        """Raise a UserError if photos or a prompt are missing; with several subjects, called for each."""
        if not self.instance_data_dir and not self.dataset_name:
            raise UserError("--instance_data_dir is missing; give the folder with the photos of the subject")
        prompted = self.instance_prompt or self.caption_column or self.caption_extension
        if not prompted and not (self.instance_data_dir and repeated_folders(Path(self.instance_data_dir))):
            raise UserError('--instance_prompt is missing; give a prompt such as "a sks dog"')
        if self.with_prior_preservation:
            if not self.class_data_dir:
                raise UserError("--with_prior_preservation needs --class_data_dir, a folder for class images")
            if not self.class_prompt:
                raise UserError('--with_prior_preservation needs --class_prompt, a prompt such as "a dog"')
