"""Preview of what training sees: degradations and corruptions. See `python -m pipelines.preview --help`."""
