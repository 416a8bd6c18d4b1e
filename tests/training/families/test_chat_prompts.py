"""Prompts as messages to a language model: what is tokenized, where it is cut, and phrases found in it."""

import pytest

from tests.training.families.test_joint_attention import seen_tokens
from tests.training.small import make

CHAT = ["flux2", "flux2-klein", "qwen-image", "z-image"]
every_chat = pytest.mark.parametrize("base", CHAT, indirect=True)


@every_chat
def test_phrases_are_found_in_the_message(base):
    """In any case and place, as whole words, not in the template's own words, and not behind the end."""
    config, family = make(base)
    find = type(family).phrase_finder(config.model)

    def letters(prompt, words):
        ids = seen_tokens(family, config, prompt)
        return "".join(tokenizer.decode([int(ids[place])]) for place in find(prompt, words)).replace(" ", "")

    tokenizer = getattr(family.tokenizer, "tokenizer", family.tokenizer)
    own = family.asked("")
    assert letters("sks", "sks") == letters('a photo of "sks"', "sks") == letters("(sks), a dog", "sks") == "sks"
    assert letters("a SKS dog", "sks") == "SKS" and letters("a sks  dog", "sks dog") == "sksdog"
    assert letters("sks or sks", "sks") == "skssks"
    assert find("a sksy dog", "sks") == find("a sks", " ") == ()
    assert "user" in own and find("a sks dog", "user") == () and letters("a user", "user") == "user"
    assert letters("in a cafe\u0301", "caf\u00e9") and letters("in a caf\u00e9", "cafe\u0301")
    assert find("a" * 600 + " sks", "sks") == () and find("sks " + "a" * 600, "sks") == find("sks", "sks")


@every_chat
def test_message_is_tokenized_and_cut_as_far_behind_its_beginning(base):
    """Padded only where the pipeline pads; the mask covers the message."""
    _, family = make(base, {"max_sequence_length": 400})
    tokenizer, longest = getattr(family.tokenizer, "tokenizer", family.tokenizer), family.start + 400
    for prompt in ("a sks dog", "a" * 500):
        message = tokenizer(family.asked(prompt), add_special_tokens=False).input_ids
        tokens = family.tokenize(prompt)
        ids, mask = tokens["input_ids"], tokens["attention_mask"].bool()
        assert prompt in family.asked(prompt) and ids[mask].tolist() == message[:longest]
        assert ids.shape == (1, longest if family.padded else min(len(message), longest))
        assert (len(message) > longest) == (len(prompt) == 500)
