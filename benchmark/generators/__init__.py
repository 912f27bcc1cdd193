"""Generators and what they make: diffusion pipelines, their identities, and pools of synthetic images."""
