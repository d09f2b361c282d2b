"""Cameras, rotations, alignment, places in the world: arithmetic on arrays."""
