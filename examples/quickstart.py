"""Segment, train and generate from Python, on drawn photos with tinyworld's small models; no download, no GPU.

    python examples/quickstart.py quickstart

For photos of your own, change in `main` the folder and the mask, and set sam="facebook/sam-vit-huge",
pretrained_model_name_or_path="stable-diffusion-v1-5/stable-diffusion-v1-5", resolution=512 and learning_rate=1e-4.
Leave out height and width.
"""

import sys
from pathlib import Path

import persam_dreambooth as pd

TINYWORLD = Path(__file__).parents[1] / "experiments" / "tinyworld"
sys.path.append(str(TINYWORLD))
from albums import albums, save_album  # noqa: E402


def main(output: Path, steps: int = 200) -> list[Path]:
    """Teach the small model a drawn dog from five photos and one mask; returns the generated pictures."""
    photos, masks = save_album(albums()[0], output)

    reference = pd.ReferenceFiles(photos / "00.png", mask=masks / "00.png")
    job = pd.SegmentationJob(photos, (reference,), output / "found", sam=str(TINYWORLD / "models/sam"))
    for entry in pd.segment_folder(job):
        print(f"{Path(entry.photo).name}: {entry.error or entry.presence or 'reference'}")

    config = pd.TrainingConfig(
        pretrained_model_name_or_path=TINYWORLD / "models/stable-diffusion",
        instance_data_dir=photos,
        instance_mask_dir=output / "found",
        instance_prompt="a sks dog",
        class_prompt="a dog",
        background_prior_weight=1.0,
        use_lora=True,
        rank=8,
        learning_rate=2e-3,
        lr_warmup_steps=0,
        max_train_steps=steps,
        resolution=64,
        seed=0,
        report_to="none",
        output_dir=output / "model",
    )
    result = pd.train(config)
    print(f"{result.steps} steps, last loss {result.losses['loss']:.3f}")

    prompts = ["a sks dog in the jungle", "a sks dog in the snow"]
    small = {"num_inference_steps": 20, "guidance_scale": 4.0, "height": 64, "width": 64}
    made = pd.generate_folder(result.output_dir, prompts, output / "pictures", num_images=4, **small)
    print(f"look at them: {made.grid}")
    return list(made.pictures.values())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "quickstart"))
