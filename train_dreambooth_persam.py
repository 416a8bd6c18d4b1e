"""DreamBooth that learns the subject and not its background, for Stable Diffusion, Flux and other base models.

With masks from `persam-dreambooth segment`, from an image editor or from another program:

    accelerate launch train_dreambooth_persam.py \
      --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \
      --instance_data_dir dog --instance_mask_dir dog-masks \
      --instance_prompt "a sks dog" --class_prompt "a dog" --background_prior_weight 1 \
      --output_dir dog-model --max_train_steps 400

With masks that are found first, from one photo and its mask; LoRA instead of all weights:

    accelerate launch train_dreambooth_persam.py --use_lora --rank 16 --learning_rate 1e-4 \
      --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \
      --instance_data_dir dog --reference_image dog/00.jpg --reference_mask dog-00.png \
      --instance_prompt "a sks dog" --class_prompt "a dog" --background_prior_weight 1 \
      --output_dir dog-lora --max_train_steps 500

All flags: `python train_dreambooth_persam.py --help`. From a file: `--config configs/sd15_lora.yaml`.
"""

import sys

import persam_dreambooth as pd
from persam_dreambooth.cli import guarded


def main(program: str, argv: list[str]) -> None:
    """Read the flags, train, and print the path of the model."""
    from persam_dreambooth.cli.train import read_config, say_where

    config = read_config(program, argv)
    say_where(config, pd.train(config))


if __name__ == "__main__":
    sys.exit(guarded("train_dreambooth_persam.py", main, sys.argv[1:]))
