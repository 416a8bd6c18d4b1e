"""Positions of a phrase's tokens in a prompt, found by tokens and by letters."""

import unicodedata
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persam_dreambooth.training.families import phrases
from persam_dreambooth.training.families.loading import token_ids
from random_parts import byte_tokenizer, letter_tokenizer
from tests.training.small import make
from tests.training.test_objective_attention import every_unet


@every_unet
def test_token_positions_follow_prompt(base):
    _, family = make(base)

    def find(prompt):
        return phrases.token_places(family.tokenizer, token_ids(family.tokenizer, prompt).input_ids[0].tolist(), "sks")

    letters = family.tokenizer("a sks dog").input_ids
    assert [letters[place] for place in find("a sks dog")] == letters[2:5]
    assert find("sks or sks") == (1, 2, 3, 6, 7, 8)
    assert find("a sksy dog") == ()
    assert find("a" * 80 + " sks") == ()


def test_places_of_a_second_tokenizer_follow_the_first_ones():
    """CLIP's start, letters and padding to 77, then T5's, which has a token for the space before a word."""
    clip, t5 = byte_tokenizer(), letter_tokenizer()
    find = phrases.by_tokens([(clip, None), (t5, 12)])
    assert find("a sks dog", "sks") == (2, 3, 4, *(77 + place for place in (2, 3, 4, 5)))
    assert find("a dog", "sks") == ()
    assert find("a long sks", "sks") == (6, 7, 8, *(77 + place for place in (7, 8, 9, 10)))  # then T5's end
    assert find("a longer sks", "sks") == (8, 9, 10)  # T5's part is cut


class Letters:
    """A tokenizer whose tokens are letters, without marks of a word's end."""

    def __call__(self, text, add_special_tokens):
        return SimpleNamespace(input_ids=[ord(letter) for letter in text])


@pytest.mark.parametrize(
    ("tokens", "words", "places"),
    [("abcabc", "ab", (0, 1, 3, 4)), ("aaa", "aa", (0, 1, 2)), ("abc", "ac", ()), ("abc", "", ()), ("ab", "abc", ())],
)
def test_all_occurrences_are_found_and_overlapping_ones_once(tokens, words, places):
    assert phrases.token_places(Letters(), [ord(letter) for letter in tokens], words) == places


def by_letters(template="{}"):
    """A finder whose tokens are the message's letters, followed by padding."""

    def message(prompt):
        return template.format(prompt)

    return phrases.in_message(
        message, lambda prompt: [*((place, place + 1) for place in range(len(message(prompt)))), (0, 0), (0, 0)]
    )


@pytest.mark.parametrize(
    ("prompt", "words", "found"),
    [
        ("a sks dog", "sks", "sks"),
        ('"SKS", sks', "sks", "SKSsks"),
        ("a sksy dog, asks", "sks", ""),
        ("a sks \n dog", "sks dog", "sks \n dog"),
        ("a c++ (dog)", "c++ (dog)", "c++ (dog)"),
        ("a caf\u00e9", "cafe\u0301", "caf\u00e9"),
        ("a cafe\u0301", "caf\u00e9", "cafe\u0301"),
        ("a caf\u00e9, a cafe\u0301", "cafe", ""),
        ("a dog", " ", ""),
    ],
)
def test_whole_words_are_found_by_their_letters(prompt, words, found):
    assert "".join(prompt[place] for place in by_letters()(prompt, words)) == found


def test_words_of_the_template_are_not_found():
    find = by_letters("say sks: {} sks")
    assert find("a dog", "sks") == ()
    assert find("a sks dog", "sks") == (11, 12, 13)
    assert find("sks", "sks") == (9, 10, 11)


def test_tokens_that_a_phrase_touches_are_its_tokens():
    """Tokens of several letters, that begin before the phrase or end behind it; padding has no letters."""
    offsets = [(0, 1), (1, 4), (4, 7), (7, 9), (0, 0)]  # "a| sk|s d|og"
    find = phrases.in_message(str, lambda prompt: offsets)
    assert find("a sks dog", "sks") == (1, 2) and find("a sks dog", "dog") == (2, 3)
    assert find("a sks dog", "a") == (0,)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["sks", "dog", "sksy", "Sks", "caf\u00e9"]), max_size=6))
def test_places_are_those_of_the_words(words):
    """Whichever form of Unicode the prompt has."""
    for form in ("NFC", "NFD"):
        prompt = unicodedata.normalize(form, " ".join(words))
        for wanted in ("sks", "caf\u00e9"):
            found = "".join(prompt[place] for place in by_letters()(prompt, wanted))
            expected = "".join(word for word in words if word.lower() == wanted)
            assert unicodedata.normalize("NFC", found) == expected
