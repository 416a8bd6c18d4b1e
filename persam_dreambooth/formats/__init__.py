"""Export masks to other trainers and import theirs: one table entry per trainer serves both."""

from persam_dreambooth.formats.export import Exported, Source, export_beside, export_folder, read_source
from persam_dreambooth.formats.import_ import IMAGES, Imported, import_folder
from persam_dreambooth.formats.table import CONVENTIONS, Convention
from persam_dreambooth.formats.trainers import export_masks, import_masks

__all__ = [
    "CONVENTIONS",
    "IMAGES",
    "Convention",
    "Exported",
    "Imported",
    "Source",
    "export_beside",
    "export_folder",
    "export_masks",
    "import_folder",
    "import_masks",
    "read_source",
]
