"""The library behind run_ktpformer.py: data, models, training, evaluation. Nothing here parses arguments on import."""

__version__ = '0.1.0'
