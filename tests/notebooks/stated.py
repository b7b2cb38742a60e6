r"""The numbers that a notebook's text states, and those that its cells print.

A number in **bold** is a measured one, and the nearest cell above the text that prints numbers has printed it: to as
many digits as are stated, or more.  ``**-4.356**``, ``**12 %**``, ``**2.5e-3**`` and ``**$2.5 \times 10^{-3}$**`` are
such numbers; bold words and numbers in plain type, such as a setting or a law, are not.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_BOLD = re.compile(r"\*\*(.+?)\*\*", re.DOTALL)
_POWER = re.compile(r"\s*\\(?:times|cdot)\s*10\^\{?(-?\d+)\}?")
_STATED = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_PRINTED = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?!\w)")


class Stated(NamedTuple):
    """A number of the text, and half a unit of its last digit."""

    text: str
    value: float
    half_unit: float

    def agrees(self, printed: float) -> bool:
        """Whether a printed number, rounded to the digits of this one, is this one; a tie may go either way."""
        return abs(printed - self.value) <= self.half_unit * (1 + 1e-6)


def stated_numbers(markdown: str) -> list[Stated]:
    r"""The bold numbers of a text, in order.

    >>> [(n.value, n.half_unit) for n in stated_numbers('at **-4.356**, **not** at 1.4; **$2 \\times 10^{-3}$**')]
    [(-4.356, 0.0005), (0.002, 0.0005)]
    """
    found = []
    for bold in _BOLD.findall(markdown):
        plain = bold.replace("\N{MINUS SIGN}", "-").replace("\\%", "%").replace("$", "").strip()
        plain = _POWER.sub(r"e\1", plain).removesuffix("%").strip()
        if _STATED.fullmatch(plain):
            number = plain.replace(",", "")
            found.append(Stated(bold, float(number), 0.5 * _unit(number)))
    return found


def printed_numbers(text: str) -> list[float]:
    """The numbers of an output, in order.

    >>> printed_numbers('x = -4.3564 after 12 steps (3%), f4 [1.5e-3, nan]')
    [-4.3564, 12.0, 3.0, 0.0015]
    """
    return [float(number) for number in _PRINTED.findall(text)]


def unprinted(cells: list) -> Iterator[str]:
    """What an executed notebook states and no cell has printed: a sentence for each number."""
    above: list[float] = []
    for cell in cells:
        if cell.cell_type == "code":
            above = above if varies(cell) else printed_numbers(printed_text(cell)) or above
            continue
        for number in stated_numbers(cell.source):
            if not any(map(number.agrees, above)):
                near = min(above, key=lambda printed: abs(printed - number.value), default="nothing")
                line = next(line for line in cell.source.splitlines() if number.text in line)
                yield f"the text states {number.text}, the cell above it prints {near}: {line.strip()}"


def changed(was: str, now: str) -> Iterator[str]:
    """How an output differs from an earlier one: in words, in integers, or by more than 2 units of a last digit.

    The last digit of ``2e-05`` is its only one.

    >>> list(changed('x = 0.123 after 7 steps', 'x = 0.124 after 7 steps'))
    []
    >>> list(changed('x = 0.123 after 7 steps', 'x = 0.126 after 8 steps'))
    ['0.123 is now 0.126', '7 is now 8']
    """
    if _PRINTED.sub("#", was) != _PRINTED.sub("#", now):
        yield f"{was!r} is now {now!r}"
        return
    for old, new in zip(_PRINTED.findall(was), _PRINTED.findall(now), strict=True):
        if abs(float(old) - float(new)) > (0 if old.lstrip("+-").isdigit() else 2 * _unit(old) * (1 + 1e-6)):
            yield f"{old} is now {new}"


def varies(cell) -> bool:
    """Whether a cell is tagged as one that prints other numbers on other machines, such as seconds."""
    return "varies" in cell.metadata.get("tags", [])


def printed_text(cell) -> str:
    """What a cell shows as text; what stands for a picture is no text."""
    printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    shown = [output.data for output in cell.outputs if output.output_type in ("execute_result", "display_data")]
    return "\n".join([printed] + [data["text/plain"] for data in shown if not any("image" in kind for kind in data)])


def _unit(number: str) -> float:
    """One unit of the last digit of a number as it is written."""
    digits, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
