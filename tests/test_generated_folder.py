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


def save(folder, prompt, seed, name, **made):
    picture = generation.Picture(Image.new("RGB", (8, 8)), prompt, seed)
    generated_folder.save_picture(picture, folder / name, "model", {"steps": 2, **made})


def planned(folder, prompts, num_images=2, **made):
    paths, missing = generated_folder.planned_pictures(
        folder, prompts, num_images, 0, {"model": "model", "steps": 2, "dtype": None, **made}
    )
    assert set(missing) <= set(paths)
    return [path.name for path in paths.values()], missing


def test_pictures_of_an_earlier_call_are_not_drawn_again(tmp_path):
    save(tmp_path, DOG, 0, "a-sks-dog-0.png")
    save(tmp_path, "a  sks dog", 1, "a-sks-dog-1.png")  # another prompt with the same file name
    names, missing = planned(tmp_path, [DOG])
    assert names == ["a-sks-dog-2-0.png", "a-sks-dog-2-1.png"] and len(missing) == 2
    assert planned(tmp_path, [DOG], 1) == (["a-sks-dog-0.png"], [])


@pytest.mark.parametrize("changes", [{"steps": 3}, {"dtype": "bfloat16"}, {"model": "other"}])
def test_pictures_that_were_made_differently_are_in_the_way(tmp_path, changes):
    save(tmp_path, DOG, 0, "a-sks-dog-0.png")
    assert planned(tmp_path, [DOG])[1] == [(DOG, 1)]
    with pytest.raises(UserError, match=r"already holds a-sks-dog-0\.png, which was made by another model"):
        planned(tmp_path, [DOG], **changes)
    (tmp_path / "a-cat-0.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"already holds a-cat-0\.png"):
        planned(tmp_path, ["a cat"])


def test_grid_of_another_model_is_in_the_way(tmp_path):
    picture = generation.Picture(Image.new("RGB", (8, 8)), DOG, 0)
    generated_folder.save_grid([picture], 1, tmp_path, "other")
    with pytest.raises(UserError, match=r"already holds grid\.png"):
        planned(tmp_path, [DOG])
    generated_folder.save_grid([picture], 1, tmp_path, "model")
    assert len(planned(tmp_path, [DOG])[1]) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": []}, "no prompt was given"),
        ({"num_images": 0}, "--num_images 0"),
        ({"height": 8}, "belong together"),
    ],
)
def test_call_that_makes_no_picture_is_refused_before_a_model_is_loaded(changes, words, tmp_path):
    with pytest.raises(UserError, match=words):
        pd.generate_folder(**{"model": "no-model", "prompts": DOG, "output": tmp_path / "out"} | changes)
    assert not (tmp_path / "out").exists()
