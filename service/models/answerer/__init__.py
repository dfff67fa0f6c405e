"""Language models that see: where features leave their eyes, and where they enter their words."""
