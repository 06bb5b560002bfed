"""Formulas as MathML, which browsers show without a script."""

import re
from html import unescape
from xml.etree.ElementTree import Element, tostring

from latex2mathml.converter import convert_to_element

from mi_utils.plots import html

# What latex2mathml is given for an environment: it numbers some, lacks others, and passes those it does
# not know through in silence. An empty name leaves the content alone.
_SAME = ("array", "bmatrix", "Bmatrix", "cases", "matrix", "pmatrix", "smallmatrix", "split", "vmatrix")
_ENVIRONMENTS = {name: name for name in _SAME} | {"equation": "", "equation*": ""}
_ENVIRONMENTS |= {name: "align*" for name in ("align", "align*", "aligned")}
_ENVIRONMENT = re.compile(r"\\(begin|end)\{([A-Za-z]+\*?)\}")
_AS_TEX = '<code class="tex" title="a formula in TeX">{{ tex }}</code>'
_LEFT_OVER = re.compile(r"[\\&{}]")


def mathml(tex: str, *, display: bool = False) -> str:
    r"""A formula as a MathML element.

    Args:
        tex: the formula without its dollar signs.
        display: whether it stands on a line of its own.

    Raises:
        ValueError: it cannot be converted; latex2mathml itself passes an unknown command, an unknown
            environment or an unbalanced brace through as if it were text.
    """
    try:
        known = _ENVIRONMENT.sub(_known, tex).replace(r"\operatorname*", r"\operatorname").strip()
        _check_braces(known)
        element = convert_to_element(known, display="block" if display else "inline")
    except Exception as error:  # latex2mathml has a dozen kinds, and lets IndexError and StopIteration out
        raise ValueError(f"formula {tex.strip()!r}: {type(error).__name__} {error}") from error
    for part in element.iter():
        _tidy(part, tex)
    return tostring(element, encoding="unicode")


def formula(tex: str, *, display: bool = False) -> str:
    """``mathml(tex)``, or, if that fails, the TeX itself, marked as such."""
    try:
        return mathml(tex, display=display)
    except ValueError:
        return str(html.render(_AS_TEX, tex=tex.strip()))


def _known(match: re.Match[str]) -> str:
    if match[2] not in _ENVIRONMENTS:
        raise ValueError(f"environment {match[2]!r}")
    name = _ENVIRONMENTS[match[2]]
    return f"\\{match[1]}{{{name}}}" if name else ""


def _check_braces(tex: str) -> None:
    depth = 0
    for brace in re.findall(r"(?<!\\)(?:\\\\)*([{}])", tex):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            break
    if depth:
        raise ValueError("its braces are not balanced")


def _tidy(part: Element, tex: str) -> None:
    """Mend one element in place: text as text, and no more than browsers know of MathML."""
    part.text = unescape(part.text) if part.text else part.text
    part.attrib.pop("href", None)
    text = part.text or ""
    if part.tag != "mtext" and text not in ("{", "}", "\\") and _LEFT_OVER.search(text):
        raise ValueError(f"formula {tex.strip()!r}: {text!r} is not understood")
    if part.tag == "mo" and len(text) > 1 and text.isalpha() and part.get("movablelimits") is None:
        part.tag = "mi"  # a function's name: as an operator it gets wide spaces on both sides
    if part.get("mathvariant") == "double-struck" and text.isdecimal():
        part.text = "".join(chr(0x1D7D8 + int(digit)) for digit in text)
    if part.get("width") == "negativethinmathspace":
        part.set("width", "-0.167em")
