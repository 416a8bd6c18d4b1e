"""Small random models that locate phrases: Grounding DINO (both), OWLv2, CLIPSeg, SAM 3 alone and with its tracker."""

from transformers import (
    BertTokenizer,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    Sam2VideoVideoProcessor,
    Sam3Config,
    Sam3ImageProcessor,
    Sam3Model,
    Sam3Processor,
    Sam3VideoProcessor,
    ViTImageProcessor,
)

from random_parts import byte_tokenizer
from tests.segmentation.random_sams import drawn, sam3_video

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "a", "red", "blue", "disc", "dog"]
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TOKENS = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}


def _grounding_dino(config_class, model_class):
    swin = {"model_type": "swin", "image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2]}
    config = config_class(
        backbone_config={**swin, "window_size": 4, "out_indices": [2, 3, 4]},
        text_config={"model_type": "bert", "vocab_size": len(WORDS), **TOWER},
        d_model=32,
        num_queries=9,
        max_text_len=8,
        **{f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in DETR.items()},
    )
    processor = GroundingDinoProcessor(
        GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 144}),
        BertTokenizer({word: number for number, word in enumerate(WORDS)}),
    )
    return drawn(model_class, config, 1), processor


DETR = {"layers": 2, "ffn_dim": 64, "attention_heads": 2}


def grounding_dino():
    return _grounding_dino(GroundingDinoConfig, GroundingDinoForObjectDetection)


def mm_grounding_dino():
    return _grounding_dino(MMGroundingDinoConfig, MMGroundingDinoForObjectDetection)


def owlv2():
    config = Owlv2Config(
        text_config={**TOWER, **TOKENS, "max_position_embeddings": 16},
        vision_config={**TOWER, "image_size": 64, "patch_size": 16},
        projection_dim=32,
    )
    processor = Owlv2Processor(Owlv2ImageProcessor(size={"height": 64, "width": 64}), byte_tokenizer(16))
    return drawn(Owlv2ForObjectDetection, config, 1), processor


def clipseg():
    config = CLIPSegConfig(
        text_config={**TOWER, **TOKENS, "max_position_embeddings": 16},
        vision_config={**TOWER, "image_size": 64, "patch_size": 8},
        projection_dim=32,
        extract_layers=[0, 1],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    processor = CLIPSegProcessor(ViTImageProcessor(size={"height": 64, "width": 64}), byte_tokenizer(16))
    return drawn(CLIPSegForImageSegmentation, config, 1), processor


def _sam3_processor():
    return Sam3Processor(Sam3ImageProcessor(size={"height": 112, "width": 112}), byte_tokenizer(32))


def sam3():
    return drawn(Sam3Model, Sam3Config(**sam3_video().config.detector_config.to_dict()), 1), _sam3_processor()


def sam3_with_tracker():
    """The whole SAM 3; only its detector is loaded."""
    return sam3_video(1), _sam3_processor()


def save(name, folder):
    """Save a model and its processor as published: SAM 3's files name the processor for videos."""
    model, processor = LOCATORS[name]()
    if name == "sam3_with_tracker":
        videos = Sam2VideoVideoProcessor(size={"height": 112, "width": 112})
        processor = Sam3VideoProcessor(processor.image_processor, videos, processor.tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


LOCATORS = {
    make.__name__: make for make in (grounding_dino, mm_grounding_dino, owlv2, clipseg, sam3, sam3_with_tracker)
}
