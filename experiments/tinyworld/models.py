"""tinyworld's untrained models, the real classes at small size, and the folders of their trained weights."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SamConfig,
    SamModel,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from recipes import RARE_TOKENS
from scenes import PHRASES
from subjects import ACCESSORIES, COLOURS, KINDS, PATTERNS
from world import SIDE

FOLDER = Path(__file__).parent / "models"
SAM, CLIP, DIFFUSION, JUDGE, DETECTOR, DINO = (
    FOLDER / name for name in ("sam", "clip", "stable-diffusion", "judge", "detector", "dino")
)
TEXT_LENGTH = 28
WIDTH = 128


def tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with one token for each word of the captions, and one for each letter of other text."""
    said = [*KINDS, *COLOURS, *PATTERNS, *ACCESSORIES, *PHRASES.values(), *RARE_TOKENS]
    text = " ".join([*said, "a an and with empty scene photo of picture the no background"])
    letters = list(bytes_to_unicode().values())
    bpe = Tokenizer(BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = [*letters, *(letter + "</w>" for letter in letters)]
    trainer = BpeTrainer(
        vocab_size=2000, min_frequency=1, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator([text], trainer)
    state = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    words = [*alphabet, *("".join(merge) for merge in merges), "<|startoftext|>", "<|endoftext|>"]
    unique = list(dict.fromkeys(words))
    return CLIPTokenizer({word: number for number, word in enumerate(unique)}, merges, model_max_length=TEXT_LENGTH)


def clip(words: CLIPTokenizer) -> CLIPModel:
    """A CLIP of 1.6 million weights; its text encoder is also the diffusion model's."""
    tower = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4}
    text = {
        **tower,
        "num_hidden_layers": 4,
        "vocab_size": len(words),
        "max_position_embeddings": TEXT_LENGTH,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "projection_dim": WIDTH,
    }
    vision = {**tower, "num_hidden_layers": 3, "image_size": SIDE, "patch_size": 8, "projection_dim": WIDTH}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def autoencoder() -> AutoencoderKL:
    """An autoencoder whose latent cells are 4 x 4 pixels."""
    return AutoencoderKL(
        block_out_channels=(32, 48, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=SIDE,
    )


def unet() -> UNet2DConditionModel:
    """A denoiser for 16 x 16 latents."""
    return UNet2DConditionModel(
        sample_size=SIDE // 4,
        block_out_channels=(96, 144),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def noise_schedule() -> DDPMScheduler:
    """Stable Diffusion 1's own schedule."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def sam() -> SamModel:
    """A SAM for 64 x 64 pixels: 16 x 16 image tokens, masks at full resolution."""
    config = SamConfig(
        vision_config={
            "hidden_size": 128,
            "output_channels": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "global_attn_indexes": [1, 3],
            "window_size": 8,
            "num_pos_feats": 32,
            "mlp_dim": 512,
            "image_size": SIDE,
            "patch_size": 4,
        },
        prompt_encoder_config={
            "hidden_size": 64, "image_size": SIDE, "patch_size": 4, "image_embedding_size": SIDE // 4,
        },
        mask_decoder_config={
            "hidden_size": 64, "mlp_dim": 256, "num_attention_heads": 4, "iou_head_hidden_dim": 64,
        },
    )  # fmt: skip
    model = SamModel(config)
    # The class's initial weights are meant to be overwritten: 1e-10 in the encoder, 0.02 in the decoder (so prompts
    # have no effect), and frequencies so high that neighbouring pixels are unrelated. SAM's own are torch's defaults.
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Embedding):
            module.reset_parameters()
    torch.nn.init.normal_(model.shared_image_embedding.positional_embedding)
    torch.nn.init.trunc_normal_(model.vision_encoder.pos_embed, std=0.02)
    return model


def dino() -> DINOv3ViTModel:
    """A DINOv3 for 64 x 64 pixels: 16 x 16 patches, 1.2 million weights."""
    return DINOv3ViTModel(
        DINOv3ViTConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=6,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=4,
            num_register_tokens=4,
        )
    )
