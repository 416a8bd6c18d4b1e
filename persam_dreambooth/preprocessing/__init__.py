"""Segment a folder of photos by a reference: write masks, overlays, a contact sheet and a manifest.

Only this package connects photo files with segmentation; the command line, training and the review page call it.
"""

from persam_dreambooth.preprocessing.job import SegmentationJob
from persam_dreambooth.preprocessing.mask_store import SETTINGS_NAME, SHEET_NAME, SUBJECT_NAME
from persam_dreambooth.preprocessing.segment_folder import segment_albums, segment_folder

__all__ = ["SETTINGS_NAME", "SHEET_NAME", "SUBJECT_NAME", "SegmentationJob", "segment_albums", "segment_folder"]
