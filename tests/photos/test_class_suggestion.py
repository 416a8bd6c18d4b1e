"""The class nouns beside a subject's masks: saved, found from either folder of masks, and damage is no suggestion."""

import pytest

from persam_dreambooth.photos.class_suggestion import (
    SUGGESTION_NAME,
    ClassSuggestion,
    find_suggestion,
    suggested_prompt,
)

CORGI = ClassSuggestion(("corgi", "dog"), (0.3, 0.2), "clip", "nouns.txt")
APPLE = ClassSuggestion(("apple",), (0.25,), "clip")


def test_suggestion_is_found_beside_the_masks_and_above_them(tmp_path):
    for name, suggestion in (("a", None), ("b", CORGI), ("c", APPLE)):
        (tmp_path / name / "masks").mkdir(parents=True)
        if suggestion:
            suggestion.save(tmp_path / name)
    assert find_suggestion(tmp_path / "b") == find_suggestion(tmp_path / "b" / "masks") == CORGI
    assert find_suggestion(tmp_path / "c") == APPLE
    assert find_suggestion(tmp_path) == CORGI  # of several subjects, the first that has one
    assert find_suggestion(tmp_path / "a" / "masks") is None and find_suggestion(tmp_path / "nowhere") is None


def test_best_noun_is_the_class_prompt_with_its_article(tmp_path):
    APPLE.save(tmp_path)
    assert suggested_prompt(str(tmp_path)) == APPLE.prompt == "an apple"
    assert (CORGI.prompt, CORGI.words) == ("a corgi", "looks like: corgi, dog")


@pytest.mark.parametrize(
    "written",
    ["", "[]", "{}", '{"nouns": [], "scores": [], "model": "m"}', '{"nouns": [3], "scores": [1], "model": "m"}',
     '{"nouns": ["a\\ud800"], "scores": [1], "model": "m"}', '{"nouns": ["a"], "scores": [1], "model": "m", "x": 1}'],
)  # fmt: skip
def test_damaged_file_is_no_suggestion(written, tmp_path):
    (tmp_path / SUGGESTION_NAME).write_text(written)
    assert ClassSuggestion.read(tmp_path) is None and find_suggestion(tmp_path) is None
