"""A trained generator: load it, call it, know what it was made for."""
