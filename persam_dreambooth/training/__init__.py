"""DreamBooth on Stable Diffusion with a masked loss: config, data, losses, families, checkpoints, loop."""
