"""What the pages are put together from: files of this package, and data that is text to a page and never markup."""

import base64
import hashlib
import importlib.resources


def part(name: str) -> str:
    """The text of a file that lies beside this module."""
    return importlib.resources.files("gradlab.report").joinpath(name).read_text("utf-8")


def hash_of(script: str) -> str:
    """How a content security policy names a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def as_script(data: str) -> str:
    """JSON that ends no script element and begins no comment, whatever its strings are; it reads as the same data."""
    return data.replace("<", r"\u003c")
