"""Converters of raw files to the npz files that the program reads; those lie here too, unless --data says otherwise."""
