"""Files on disk: photos, masks, the manifest, and pictures for people to look at. No models here."""
