"""Converters from raw files to the npz files that the program reads, which lie in this folder too by default."""
