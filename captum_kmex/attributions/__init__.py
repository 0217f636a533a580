"""The three attributions, as Captum has them, and the life of a bank."""
