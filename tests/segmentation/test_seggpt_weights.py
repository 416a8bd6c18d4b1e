"""The files of SegGPT and Painter: their authors', of which the sizes are read from the weights, and transformers'."""

import pytest
import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.seggpt_weights import from_published, load_seggpt
from random_models import random_sam
from tests.parity.seggpt_cases import SIZE, recorded, state_of
from tests.segmentation.test_seggpt import random_seggpt


@pytest.mark.parametrize("name", ["seggpt", "painter"])
def test_authors_file_is_read(tmp_path, name):
    state, file = state_of(recorded(), name), tmp_path / "weights.pth"
    torch.save({"model": state}, file)
    ours = load_seggpt(str(file)).state_dict()
    assert torch.equal(ours["decoder.decoder_pred.head.bias"], state["decoder_pred.3.bias"])
    typed = ours["model.embeddings.type_token_instance"]
    assert torch.equal(typed, state.get("type_token_ins", torch.zeros_like(typed)))
    del state["blocks.3.mlp.fc1.weight"]
    torch.save({"model": state}, file)
    with pytest.raises(UserError, match="lacks weights of a SegGPT"):
        load_seggpt(str(file))
    torch.save({"image_encoder.pos_embed": torch.zeros(1)}, file)
    with pytest.raises(UserError, match="is not a SegGPT or Painter"):
        load_seggpt(str(file))


def test_sizes_are_read_from_the_weights():
    config = from_published(state_of(recorded(), "seggpt")).config
    expected = SIZE["patch_size"], SIZE["embed_dim"], SIZE["num_heads"], SIZE["pretrain_img_size"]
    found = config.patch_size, config.hidden_size, config.num_attention_heads, config.pretrain_image_size
    assert found == expected
    assert tuple(config.image_size) == SIZE["img_size"]
    assert config.decoder_hidden_size == SIZE["decoder_embed_dim"]
    assert config.mlp_dim == 4 * SIZE["embed_dim"]


def test_weight_that_is_left_over_is_refused():
    state = state_of(recorded(), "painter") | {"head.weight": torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r"head\.weight"):
        from_published(state)


def test_folder_is_loaded_and_one_of_another_model_is_refused(tmp_path):
    model = random_seggpt()
    model.save_pretrained(tmp_path / "seggpt")
    loaded, own = load_seggpt(str(tmp_path / "seggpt")).state_dict(), model.state_dict()
    assert loaded.keys() == own.keys() and all(torch.equal(loaded[name], own[name]) for name in own)
    random_sam().save_pretrained(tmp_path / "sam")
    with pytest.raises(UserError, match="is not a SegGPT"):
        load_seggpt(str(tmp_path / "sam"))
    with pytest.raises(UserError, match="no SegGPT checkpoint at"):
        load_seggpt(str(tmp_path / "seggpt_vit_large.pth"))
