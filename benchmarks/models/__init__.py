"""Which models of torchvision and timm are explained, and how: the table of ``docs/models.md``."""
