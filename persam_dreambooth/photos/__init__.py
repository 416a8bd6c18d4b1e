"""Files on disk: photos, masks, the manifest, and the pictures people look at. No models here."""
