"""DreamBooth with a masked loss: `main` runs `setup`, builds what it found, trains in `loop` and saves."""
