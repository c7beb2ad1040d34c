"""Figures beside named references: `make bench`."""
