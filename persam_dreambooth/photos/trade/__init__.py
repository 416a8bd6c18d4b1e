"""Masks to and from other trainers: each trainer's convention is one entry of a table, read and written alike."""

from persam_dreambooth.photos.trade.conventions import CONVENTIONS, Convention
from persam_dreambooth.photos.trade.exporting import Exported, export_beside, export_folder
from persam_dreambooth.photos.trade.importing import IMAGES, Imported, import_folder
from persam_dreambooth.photos.trade.source import Source, read_source

__all__ = [
    "CONVENTIONS",
    "IMAGES",
    "Convention",
    "Exported",
    "Imported",
    "Source",
    "export_beside",
    "export_folder",
    "import_folder",
    "read_source",
]
