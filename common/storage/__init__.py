"""Files: npz archives, checkpoints, run folders, atomic writing."""
