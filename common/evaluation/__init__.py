"""From test windows to tables."""
