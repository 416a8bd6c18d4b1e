"""How well a model learned its subject: what it draws for many prompts, measured and shown."""
