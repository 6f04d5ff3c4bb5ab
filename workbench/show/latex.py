"""How LaTeX writes a table's cells: text as it is, figures as mathematics or for siunitx's S columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

#: What the document needs; the second line lets bold numbers be bold (siunitx 3).
PACKAGES = (
    r"% \usepackage{booktabs, siunitx}",
    r"% \sisetup{mode = match, reset-text-series = false, text-series-to-math = true}",
)
_NUMBER = re.compile(r"(?P<sign>[-+]?)(?P<whole>\d+)(?:\.(?P<part>\d+))?(?:e(?P<power>[-+]?\d+))?")


class Figure(NamedTuple):
    """A number with its standard error, both as text; error "" where there is none."""

    value: str
    error: str = ""

    def __str__(self) -> str:
        return f"{self.value} ± {self.error}" if self.error else self.value


_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "–": "--",
    "·": r"$\cdot$",
    "Δ": r"$\Delta$",
    **{c: "\\" + c for c in "&%$#_{}"},
}


def escape_latex(text: str) -> str:
    """Text that LaTeX shows as it is, on one line."""
    return "".join(_ESCAPES.get(c, c) for c in " ".join(text.split()))


def cell(found: Any, *, bold: bool = False) -> str:
    """A cell of any column: a number between dollars, all else as text."""
    if not isinstance(found, Figure) or not re.match(r"[-+]?\d", found.value):
        text = escape_latex(str(found))
        return rf"\textbf{{{text}}}" if bold else text
    number = r" \pm ".join(re.sub(r"e([+-])0*(\d+)", _power, part) for part in found if part)
    return rf"$\mathbf{{{number}}}$" if bold else f"${number}$"


def _power(match: re.Match) -> str:
    sign = "-" if match[1] == "-" else ""
    return rf" \cdot 10^{{{sign}{match[2]}}}"


def aligned(found: Any, *, bold: bool = False) -> str:
    """A cell of an S column: `7.3607(1640)`, the error in units of the last digit; in braces what is no number."""
    number = _parsed(found)
    if number is None:
        return f"{{{cell(found, bold=bold)}}}"
    value, error = number["value"], number["error"]
    text = f"{value}({error})" if error else value
    text += f"e{number['power']}" if number["power"] else ""
    return rf"\bfseries {text}" if bold else text


def column(cells: Sequence[Any]) -> str | None:
    """The S column that these cells take, such as `S[table-format=+2.4(4)]`; None where none of them is a number."""
    numbers = [number for each in cells if (number := _parsed(each))]
    if not numbers:
        return None
    parts = [re.match(r"([-+]?)(\d+)\.?(\d*)", number["value"]) for number in numbers]
    found = [(part[1], len(part[2]), len(part[3])) for part in parts if part]
    sign = "+" if any(each[0] for each in found) else ""
    form = sign + str(max(each[1] for each in found))
    form += f".{digits}" if (digits := max(each[2] for each in found)) else ""
    form += f"({digits})" if (digits := max(len(number["error"]) for number in numbers)) else ""
    powers = [number["power"] for number in numbers if number["power"]]
    if powers:
        sign = "-" if any(power.startswith("-") for power in powers) else ""
        form += f"e{sign}{max(len(power.lstrip('-')) for power in powers)}"
    return f"S[table-format={form}]"


def _parsed(found: Any) -> dict[str, str] | None:
    """value, error (in units of the value's last digit, "" for none) and power, as text; None for what is no number.

    The last digit of an error may stand behind the value's; it is then rounded, to one unit at least.
    """
    if not isinstance(found, Figure) or not (match := _NUMBER.fullmatch(found.value)):
        return None
    value = match["sign"] + match["whole"] + (f".{match['part']}" if match["part"] else "")
    power = int(match["power"] or 0)
    error = ""
    if _NUMBER.fullmatch(found.error):
        unit = Decimal(1).scaleb(power - len(match["part"] or ""))
        units = Decimal(found.error) / unit
        error = str(max(round(units), 1) if units else 0)
    return {"value": value, "error": error, "power": str(power) if power else ""}
