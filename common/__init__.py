"""The library behind run_ktpformer.py: data, models, training, evaluation. Nothing here parses arguments on import."""
