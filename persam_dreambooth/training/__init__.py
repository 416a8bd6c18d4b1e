"""DreamBooth with a masked loss: `main` runs `setup`, builds the model and optimizer,
trains in `loop` and saves."""
