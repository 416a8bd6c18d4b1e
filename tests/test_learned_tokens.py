"""Words of learned tokens: their tokens and rows, the file, and pipelines that get them."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextModel
from transformers.utils import logging

from persam_dreambooth import learned_tokens
from persam_dreambooth.model_folder import EMBEDDINGS_NAME
from random_models import random_stable_diffusion
from random_parts import byte_tokenizer, letter_tokenizer, random_clip

WORDS = {"TOK": 3, "dog-1": 1}


def test_word_stands_for_its_tokens_alone_and_in_its_case():
    tokenizer = byte_tokenizer()
    first = len(tokenizer)
    ids = learned_tokens.insert(tokenizer, WORDS)
    assert ids == list(range(first, first + 4))
    for prompt, expected in (("a TOK, dog-1", ids), ("(TOK)", ids[:3]), ("tok TOKs xTOK dog", [])):
        spelled = learned_tokens.spelled_out(tokenizer, prompt)
        assert [number for number in tokenizer(spelled).input_ids if number >= first] == expected, prompt
    assert learned_tokens.spelled_out(tokenizer, "a TOK") == "a TOK TOK_1 TOK_2"
    with pytest.raises(ValueError, match="has a token 'TOK_1' already"):
        learned_tokens.insert(tokenizer, {"TOK_1": 1})


def test_t5_has_no_space_between_the_tokens_of_a_word():
    tokenizer = letter_tokenizer()
    ids = learned_tokens.insert(tokenizer, {"TOK": 3})
    found = tokenizer(learned_tokens.spelled_out(tokenizer, "a TOK b")).input_ids
    start = found.index(ids[0])
    assert found[start : start + 3] == ids


def test_encoder_keeps_its_rows_and_never_loses_any():
    tokenizer, encoder = byte_tokenizer(), random_clip(CLIPTextModel, 0)
    before = encoder.get_input_embeddings().weight.detach().clone()
    learned_tokens.insert(tokenizer, WORDS)
    verbosity = logging.get_verbosity()
    rows = learned_tokens.enlarge(encoder, tokenizer, mean_resizing=False)
    assert len(rows) == len(before) + 4 and torch.equal(rows[: len(before)], before)
    assert logging.get_verbosity() == verbosity
    assert rows.data_ptr() == encoder.get_input_embeddings().weight.data_ptr()
    assert len(learned_tokens.enlarge(encoder, byte_tokenizer())) == len(rows)


def test_file_holds_words_and_rows(tmp_path):
    rows = {"clip_l": torch.randn(4, 32), "t5": torch.randn(4, 64)}
    learned_tokens.save(tmp_path, WORDS, rows)
    words, found = learned_tokens.read(tmp_path)
    assert list(words.items()) == list(WORDS.items()) and found.keys() == rows.keys()
    assert all(torch.equal(found[key], rows[key]) for key in rows)
    for metadata, count in ({}, 4), ({learned_tokens.WORDS: json.dumps(WORDS)}, 3), ({learned_tokens.WORDS: "{}"}, 0):
        save_file({"clip_l": torch.zeros(count, 32)}, tmp_path / EMBEDDINGS_NAME, metadata)
        with pytest.raises(ValueError, match="does not say which words its rows are"):
            learned_tokens.read(tmp_path)


def test_pipeline_gets_the_rows_of_its_encoder(tmp_path):
    pipeline, rows = random_stable_diffusion(), torch.randn(4, 32)
    first = len(pipeline.tokenizer)
    learned_tokens.save(tmp_path, WORDS, {"clip_l": rows})
    learned_tokens.attach(pipeline, tmp_path)
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[first:], rows)
    assert pipeline.tokenizer.convert_tokens_to_ids("dog-1") == first + 3
    for key, wrong in (("clip_l", torch.randn(4, 16)), ("t5", torch.randn(4, 32))):
        learned_tokens.save(tmp_path, WORDS, {key: wrong})
        with pytest.raises(ValueError, match=f"learned with another kind of base model, by its {key}"):
            learned_tokens.attach(random_stable_diffusion(), tmp_path)
