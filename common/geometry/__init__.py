"""Arithmetic on arrays of points: cameras, rotations, alignment, and placing a person in the world."""
