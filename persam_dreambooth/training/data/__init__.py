"""From photos, masks and class images to batches."""
