"""Pictures, plots and films."""
