"""The files of generated pictures: names, the grid, and what an earlier call left."""

import numpy as np
import pytest
from PIL import Image

import persam_dreambooth as pd
from persam_dreambooth import generated_folder, generation
from persam_dreambooth.errors import UserError

DOG = "a sks dog"


@pytest.fixture(scope="module")
def base(models):
    """Path of the small Stable Diffusion."""
    return models / "stable-diffusion"


def test_prompts_with_equal_file_names_get_different_files(tmp_path):
    prompts = ["a dog", "A dog!", "a: dog", "ein Hund", "犬", "猫", "x" * 80, "x" * 90]
    paths = generated_folder.picture_paths(tmp_path, prompts, 3, 10)
    assert set(paths) == {(prompt, seed) for prompt in prompts for seed in (10, 11, 12)}
    assert len(set(paths.values())) == len(paths)
    assert paths["a dog", 11] == tmp_path / "a-dog-11.png"
    for path in paths.values():
        assert path.parent == tmp_path
        assert path.name.isascii()
        assert len(path.name) < 80


@pytest.mark.parametrize("existing", ["a-sks-dog-1.png", "grid.png"])
def test_existing_file_is_named_and_refused(tmp_path, existing):
    (tmp_path / existing).write_bytes(b"")
    with pytest.raises(UserError, match="already holds") as error:
        generated_folder.picture_paths(tmp_path, [DOG], 2, 0)
    assert existing in str(error.value)


def test_folder_of_other_pictures_is_accepted(tmp_path):
    (tmp_path / "a-sks-dog-2.png").write_bytes(b"")
    paths = generated_folder.picture_paths(tmp_path, [DOG], 2, 0)
    assert [path.name for path in paths.values()] == ["a-sks-dog-0.png", "a-sks-dog-1.png"]


def test_grid_has_row_for_each_prompt(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]
    pictures = [
        generation.Picture(Image.new("RGB", (8, 8), colour), "dog" if number < 3 else "cat", number % 3)
        for number, colour in enumerate(colours)
    ]
    grid = np.asarray(Image.open(generated_folder.save_grid(pictures, 3, tmp_path)))
    places = [np.argwhere((grid == colour).all(axis=-1)).mean(axis=0) for colour in colours]
    rows, columns = ([tuple(row) for row in np.reshape([place[axis] for place in places], (2, 3))] for axis in (0, 1))
    assert len(set(rows[0])) == len(set(rows[1])) == 1
    assert rows[0][0] < rows[1][0]
    assert columns[0] == columns[1] == tuple(sorted(columns[0]))


def test_one_prompt_may_be_a_string(base, tmp_path):
    small = {"num_images": 1, "num_inference_steps": 1, "height": 32, "width": 32}
    alone = pd.generate_folder(base, DOG, tmp_path / "alone", **small)
    listed = pd.generate_folder(base, [DOG], tmp_path / "listed", **small)
    assert [path.name for path in alone.pictures.values()] == [path.name for path in listed.pictures.values()]
    assert list(alone.pictures) == [(DOG, 0)]


@pytest.mark.parametrize("prompts", [["a dog 2", "a dog", "a dog!"], ["a dog", "a dog!", "a dog?", "a dog-2"]])
def test_prompts_never_share_file(tmp_path, prompts):
    paths = generated_folder.picture_paths(tmp_path, prompts, num_images=2, seed=0)
    assert len(set(paths.values())) == len(paths) == 2 * len(prompts)
