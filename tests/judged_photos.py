"""Photos with the output of `persam-dreambooth segment`, in which a presence rule has judged each mask."""

from pathlib import Path

from PIL import Image

from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, write_manifest
from tests.scene import scene

VERDICTS = {"dog": "found", "sofa": "not found", "park": "unsure", "reference": None}


def save_judged_photos(folder: Path, height: int, width: int, *others: ManifestEntry) -> None:
    """Write `photos`, one for each of `VERDICTS`, and `out` with their masks and manifest.

    Args:
        folder: for both.
        height, width: of the photos, in pixels.
        others: further lines of the manifest.
    """
    entries = []
    for number, (name, verdict) in enumerate(VERDICTS.items()):
        pixels, disc = scene(height, width, number)
        photo, mask = folder / "photos" / f"{name}.png", folder / "out" / "masks" / f"{name}.png"
        files.write_picture(Image.fromarray(pixels), photo)
        files.write_mask(disc, mask)
        reason = None if verdict in (None, "found") else f"because of {name}"
        known = {"presence": verdict, "reason": reason, "mask_digest": files.digest(mask)}
        entries.append(ManifestEntry(f"../photos/{name}.png", files.digest(photo), **known))
    write_manifest(folder / "out" / MANIFEST_NAME, [*entries, *others])
