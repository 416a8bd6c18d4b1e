"""Photos, masks and class images, turned into batches."""
