"""The page of a sweep: one HTML file with everything in it, which opens without a network."""

from gradlab.report.page import write_report

__all__ = ["write_report"]
