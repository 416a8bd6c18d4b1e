"""The prompts: DreamBench's word for word, and the format of a user's own file."""

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.prompts import Prompt, read_prompts, scenes


def test_dreambench_has_25_prompts_for_objects_and_25_for_live_subjects():
    objects, live = (read_prompts(which, "sks", "dog") for which in ("objects", "live"))
    assert len(objects) == len(live) == 25
    assert objects[:10] == live[:10] and objects[20:] == live[20:]
    assert objects[0] == Prompt("a sks dog in the jungle", "a dog in the jungle", "in the jungle")
    assert objects[14] == Prompt(
        "a sks dog floating in an ocean of milk", "a dog floating in an ocean of milk", "in an ocean of milk"
    )
    assert live[13].text == "a sks dog wearing a black top hat and a monocle"
    assert live[24] == Prompt("a cube shaped sks dog", "a cube shaped dog", None)
    assert len(scenes(objects)) == 20 and len(scenes(live)) == 10
    assert all(scene in prompt.text for prompt in objects if (scene := prompt.scene))
    assert read_prompts("scenes", "sks", "dog") == objects[:5]


def test_users_own_prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeff# mine\n\na {class_token}  [at  {unique_token}'s]\nhello\nhello\n", encoding="utf-8")
    assert read_prompts(str(path), "sks", "dog") == [
        Prompt("a dog at sks's", "a dog at 's", "at sks's"),
        Prompt("hello", "hello", None),
    ]
    path.write_text("no placeholder [at night]")
    assert read_prompts(str(path), None, None) == [Prompt(*["no placeholder at night"] * 2, "at night")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a {token} dog", r"supported are {unique_token} and {class_token}"),
        ("a {unique_token} dog", "needs --unique_token; give one, such as sks"),
        ("a dog [in the snow", "unbalanced brackets"),
        ("a dog in the snow]", "unbalanced brackets"),
        ("a dog [in] the [snow]", "unbalanced brackets"),
        ("a {class_token dog", "unbalanced brackets"),
        ("# nothing", "no prompt in"),
    ],
)
def test_invalid_prompt_is_refused(tmp_path, line, message):
    path = tmp_path / "prompts.txt"
    path.write_text(line)
    with pytest.raises(UserError, match=message):
        read_prompts(str(path), None, "dog")


def test_missing_or_non_text_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither objects nor live nor scenes nor a file"):
        read_prompts("objcts", "sks", "dog")
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8 text"):
        read_prompts(str(path), "sks", "dog")
