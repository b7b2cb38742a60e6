"""Stages of a chain that are no optimizer."""
