"""Backbones, losses, sampling of batches, the training loop and prediction."""
