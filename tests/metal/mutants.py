"""Texts with one thing left out: a barrier, or a test that keeps a thread within bounds."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tensorlogic.codegen.dialects import BODY_MARK

_BARRIER = re.compile(r"\b(?:GROUP|SIMD)_BARRIER(?:_DEVICE)?\(\);")
_RETURN = re.compile(r"^ *if \([^\n]*\) (?:return|continue);\n", re.MULTILINE)
_COMPARISON = re.compile(r" (?:<|<=|>=) ")
_PART = re.compile(r"^(?:FUNC|KERNEL)[^;{}]*\{\n.*?^\}", re.MULTILINE | re.DOTALL)
_MEMORY_FUNCTIONS = ("load_pack", "store_pack", "pair", "fetch")
"""Functions that are given how much is left; those beside them compare values, not places."""
_CONSTANT = re.compile(r"(?:[A-Z]+_[A-Z]+|THREADS|ROWS|LANE|THREAD|\d+|[ */+\-()])+")
_VARYING = re.compile(r"\w+_(?:left|right|other|next)(?:_\d+)?|\d+\.\d+f|.*\bfloat\(.*")
"""What is compared to find the larger of two values."""


def without_barriers(text: str) -> Iterator[tuple[str, str]]:
    """For each barrier its place and the text without it."""
    for found in _BARRIER.finditer(text, text.index(BODY_MARK)):
        yield f"{_line(text, found.start())}: {found.group()}", _cut(text, found.span(), ";")


def without_bounds(text: str) -> Iterator[tuple[str, str]]:
    """For each bounds check its place and the text without it; loops run once too often.

    Left out are checks behind which another stands: the reads and writes of a pack are each told
    how many elements are left (`stop - index`).
    """
    for start, end in _parts(text):
        part = text[start:end]
        returns = list(_RETURN.finditer(text, start, end))
        for found in returns:
            if not _checked_again(part, found.group()):
                what = f"{_line(text, found.start())}: {found.group().strip()}"
                yield what, _cut(text, found.span())
        for found in _COMPARISON.finditer(text, start, end):
            if any(r.start() <= found.start() < r.end() for r in returns):
                continue
            left, right = _operands(text, found.start(), found.end())
            what = text[left:right]
            named = f"{_line(text, left)}: {what}"
            if _in_loop_header(text, left):
                if not (_is_constant(text[found.end() : right]) or _checked_again(part, what)):
                    yield f"{named}, once too often", _cut(text, found.span(), " <= ")
            elif _is_bound(part, text[left : found.start()], text[found.end() : right]):
                yield named, _cut(text, (left, right), "true")


def _parts(text: str) -> Iterator[tuple[int, int]]:
    """Where kernels and the functions that reach memory stand."""
    for found in _PART.finditer(text, text.index(BODY_MARK)):
        head = found.group().split("{")[0]
        if head.startswith("KERNEL") or any(f" {f}" in head for f in _MEMORY_FUNCTIONS):
            yield found.span()


def _is_constant(operand: str) -> bool:
    return _CONSTANT.fullmatch(operand) is not None


def _is_bound(part: str, left: str, right: str) -> bool:
    """Whether a place is compared with an end, not a value with a value."""
    if _is_constant(left) and not right.startswith("t"):
        return False
    if _VARYING.fullmatch(left) or _VARYING.fullmatch(right):
        return False
    variable = rf"^ +\w+ {re.escape(right)} = "  # constants are declared const
    return re.search(variable, part, re.MULTILINE) is None


def _checked_again(part: str, condition: str) -> bool:
    found = re.search(r"(\w+) (?:<|>=) ([\w ]+)", condition)
    return found is not None and f"{found.group(2)} - {found.group(1)}" in part


def _line(text: str, at: int) -> str:
    return f"line {text.count(chr(10), 0, at) + 1}"


def _cut(text: str, span: tuple[int, int], instead: str = "") -> str:
    return text[: span[0]] + instead + text[span[1] :]


def _operands(text: str, left: int, right: int) -> tuple[int, int]:
    """From where to where a comparison reaches whose operator lies between the two places."""
    start, depth = left, 0
    while start > 0:
        c = text[start - 1]
        depth += (c in ")]") - (c in "([")
        before = text[start - 2 : start]
        if depth < 0 or (depth == 0 and (c in "{};,?:\n" or before in ("&&", "||", "= "))):
            break
        start -= 1
    end, depth = right, 0
    while end < len(text):
        c = text[end]
        depth += (c in "([") - (c in ")]")
        if depth < 0 or (depth == 0 and (c in "{};,?:\n" or text[end : end + 2] in ("&&", "||"))):
            break
        end += 1
    start += len(text[start:left]) - len(text[start:left].lstrip())
    return start, right + len(text[right:end].rstrip())


def _in_loop_header(text: str, at: int) -> bool:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    opening = line.rfind("for (")
    return opening >= 0 and line[opening + 4 :].count("(") > line[opening + 4 :].count(")")
