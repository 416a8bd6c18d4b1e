"""The evaluation report's experiment: every arm is trained and reported, and the table shows the reports."""

import json

from albums import albums
from arms import Recipe
from generation_report import report, table

RECIPE = Recipe(steps=1, batch_size=1, inference_steps=1, lora_rank=4)


def test_subject_is_trained_with_and_without_masks_and_both_are_measured(tmp_path):
    folder = report(albums()[0], tmp_path, RECIPE, num_images=1)
    stored = json.loads((folder / "metrics.json").read_text())
    assert list(stored["models"]) == ["unmasked", "masked", "masked+prior", "base"]
    assert stored["settings"]["prompts"] == 7 and stored["settings"]["training_scenes"] == ["on a sofa"]
    text = table([folder, folder])
    (row,) = [line for line in text.splitlines() if "CLIP-T" in line]
    unmasked, masked, prior, base, over, over_masked, photos = (cell.strip() for cell in row.split("|")[2:-1])
    means = {title: stored["models"][title]["clip_t"]["mean"] for title in stored["models"]}
    # The same report twice: all subjects have the same mean, so a bootstrap has no spread.
    cells = {"unmasked": unmasked, "masked": masked, "masked+prior": prior, "base": base}
    assert cells == {title: f"{mean:.3f}" for title, mean in means.items()}
    assert over == f"{means['masked'] - means['unmasked']:.3f}" and photos == ""
    assert over_masked == f"{means['masked+prior'] - means['masked']:.3f}"
