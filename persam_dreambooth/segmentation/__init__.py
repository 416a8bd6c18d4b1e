"""Standalone segmentation library: PerSAM on any SAM, from one photo and one mask.

    persam = PerSAM.from_pretrained("facebook/sam-vit-huge")
    subject = persam.personalize(Reference(Image.open("dog.jpg"), Image.open("dog_mask.png")))
    found = persam.segment(Image.open("park.jpg"), subject)

It does not depend on diffusion models or folder layouts: images in, masks out.
"""

from persam_dreambooth.segmentation.agreement import Agreement, AgreementCheck
from persam_dreambooth.segmentation.appearance import ImageEncoder
from persam_dreambooth.segmentation.backbones import Backbone, Prompts, load_backbone
from persam_dreambooth.segmentation.class_nouns import ClassSuggester
from persam_dreambooth.segmentation.crops import CropSearch
from persam_dreambooth.segmentation.features import FeatureEncoder
from persam_dreambooth.segmentation.insid3 import INSID3
from persam_dreambooth.segmentation.insid3_sam import Insid3Sam
from persam_dreambooth.segmentation.loading import load_segmenter
from persam_dreambooth.segmentation.memory_video import MemorySegmenter
from persam_dreambooth.segmentation.method import AnyMethod, Insid3Method, Method, SegGptMethod
from persam_dreambooth.segmentation.multi_mask import segment_instances, segment_together
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.persam import PerSAM
from persam_dreambooth.segmentation.phrases import PhraseCheck, reference_from_text
from persam_dreambooth.segmentation.presence import MaskCheck, Presence, PresenceCheck, PresenceRule
from persam_dreambooth.segmentation.presence_scores import PresenceMeter, PresenceScores
from persam_dreambooth.segmentation.reference_masks import rate_references, reference_from
from persam_dreambooth.segmentation.seggpt import SegGPT
from persam_dreambooth.segmentation.seggpt_video import SegGptVideoSegmenter
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.text_locator import TextLocator, TextMatch, TextPrompt
from persam_dreambooth.segmentation.types import DecoderPass, EncodedPhoto, Picture, Reference, Segmentation
from persam_dreambooth.segmentation.video import VideoFrame, VideoSegmenter

__all__ = [
    "INSID3",
    "Agreement",
    "AgreementCheck",
    "AnyMethod",
    "Backbone",
    "ClassSuggester",
    "CropSearch",
    "DecoderPass",
    "EncodedPhoto",
    "FeatureEncoder",
    "ImageEncoder",
    "Insid3Method",
    "Insid3Sam",
    "MaskCheck",
    "MemorySegmenter",
    "Method",
    "OneShotSegmenter",
    "PerSAM",
    "PhraseCheck",
    "Picture",
    "Presence",
    "PresenceCheck",
    "PresenceMeter",
    "PresenceRule",
    "PresenceScores",
    "Prompts",
    "Reference",
    "SegGPT",
    "SegGptMethod",
    "SegGptVideoSegmenter",
    "Segmentation",
    "Subject",
    "TextLocator",
    "TextMatch",
    "TextPrompt",
    "VideoFrame",
    "VideoSegmenter",
    "load_backbone",
    "load_segmenter",
    "rate_references",
    "reference_from",
    "reference_from_text",
    "segment_instances",
    "segment_together",
]
