"""The loops: training, evaluation, and what is said about their results."""
