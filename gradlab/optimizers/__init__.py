"""Optimizers, one family a file."""
