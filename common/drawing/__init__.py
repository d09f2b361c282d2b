"""Pictures, plots and films of poses and of errors."""
