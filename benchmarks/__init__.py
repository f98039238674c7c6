"""Measurements of the product, outside the wheel."""
