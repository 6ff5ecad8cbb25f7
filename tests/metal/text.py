"""Metal text as its reader sees it: macros expanded, and what each kernel takes.

The text's own macros are expanded here, those of Metal's headers (there are none that matter) are
not, so that what comes out still has Metal's words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

MAX_THREADS = 1024
MAX_SLOT = 30
GROUP_MEMORY = 32768

# [[attribute]] -> whether it may be a vector of 2 or 3
ATTRIBUTES = {
    "thread_position_in_grid": True,
    "threadgroup_position_in_grid": True,
    "thread_position_in_threadgroup": True,
    "threads_per_threadgroup": True,
    "threadgroups_per_grid": True,
    "threads_per_grid": True,
    "thread_index_in_threadgroup": False,
    "thread_index_in_simdgroup": False,
    "simdgroup_index_in_threadgroup": False,
    "simdgroups_per_threadgroup": False,
    "threads_per_simdgroup": False,
}
_TOKEN = re.compile(r"[A-Za-z_]\w*|\.?\d[\w.]*|\"(?:\\.|[^\"\\])*\"|\s+|.", re.DOTALL)
_WORD = re.compile(r"[A-Za-z_]\w*")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_DEFINE = re.compile(r"(\w+)(\(([^)]*)\))?\s*(.*)", re.DOTALL)


class MetalError(Exception):
    """What is wrong with a text, or with what a kernel did."""


@dataclass(frozen=True)
class Parameter:
    """`ctype` is the type as written, `slot` the number of a buffer, None where it is an id."""

    ctype: str
    name: str
    attribute: str
    slot: int | None


@dataclass(frozen=True)
class Signature:
    """A kernel as the text declares it; `body` is what stands in its braces, expanded."""

    name: str
    threads: int
    parameters: tuple[Parameter, ...]
    body: str

    @property
    def slots(self) -> list[int]:
        return [p.slot for p in self.parameters if p.slot is not None]


@dataclass(frozen=True)
class _Macro:
    parameters: tuple[str, ...] | None
    body: tuple[str, ...]


@cache
def expanded(text: str) -> str:
    """The text without directives and comments, its own macros expanded."""
    macros: dict[str, _Macro] = {}
    out: list[str] = []
    for line in _COMMENT.sub(" ", text).replace("\\\n", " ").split("\n"):
        directive = re.match(r"\s*#\s*(\w+)\s*(.*)", line, re.DOTALL)
        if directive is None:
            out.append(line)
            continue
        out = ["".join(_expand(_TOKEN.findall("\n".join(out)), macros, frozenset())), ""]
        word, rest = directive.groups()
        if word == "define":
            name, _, parameters, body = _DEFINE.fullmatch(rest).groups()  # type: ignore[union-attr]
            names = None if parameters is None else tuple(p.strip() for p in parameters.split(","))
            macros[name] = _Macro(names, tuple(_TOKEN.findall(body.strip())))
        elif word == "undef":
            macros.pop(rest.strip(), None)
        elif word not in ("include", "pragma"):
            raise MetalError(f"#{word}: kernels have no conditional text")
    return "".join(_expand(_TOKEN.findall("\n".join(out)), macros, frozenset()))


def _expand(tokens: list[str], macros: dict[str, _Macro], hidden: frozenset[str]) -> list[str]:
    out: list[str] = []
    i = 0
    while i < len(tokens):
        token = tokens[i]
        macro = None if token in hidden else macros.get(token)
        i += 1
        if macro is None:
            out.append(token)
            continue
        body = list(macro.body)
        if macro.parameters is not None:
            while i < len(tokens) and tokens[i].isspace():
                i += 1
            if i == len(tokens) or tokens[i] != "(":
                out.append(token)
                continue
            arguments, i = _arguments(tokens, i)
            given = [_expand(a, macros, hidden) for a in arguments]
            names = [p for p in macro.parameters if p]
            if len(given) != len(names) and (names or any("".join(a).strip() for a in given)):
                raise MetalError(f"macro {token} takes {len(names)} arguments, not {len(given)}")
            by = dict(zip(names, given, strict=False))
            body = [piece for t in body for piece in by.get(t, [t])]
        out += _expand(body, macros, hidden | {token})
    return out


def _arguments(tokens: list[str], i: int) -> tuple[list[list[str]], int]:
    """The arguments of a macro whose bracket opens at `i`, and where what follows begins."""
    arguments: list[list[str]] = [[]]
    depth = 0
    while i < len(tokens):
        token = tokens[i]
        i += 1
        depth += (token in "([{") - (token in ")]}")
        if depth == 0:
            return [_trimmed(a) for a in arguments], i
        if token == "," and depth == 1:
            arguments.append([])
        elif not (token == "(" and depth == 1 and arguments == [[]]):
            arguments[-1].append(token)
    raise MetalError("a bracket is not closed")


def _trimmed(tokens: list[str]) -> list[str]:
    while tokens and tokens[0].isspace():
        tokens = tokens[1:]
    while tokens and tokens[-1].isspace():
        tokens = tokens[:-1]
    return tokens


@cache
def kernels(text: str) -> tuple[Signature, ...]:
    """The kernels of a text. Raises MetalError for what Metal's rules about them forbid."""
    bare = expanded(text)
    found = list(re.finditer(r"((?:\[\[[^\]]*\]\]\s*)?)\bkernel\s+(\w+)\s+(\w+)\s*\(", bare))
    if not found:
        raise MetalError("no kernel")
    return tuple(_kernel(bare, *k.groups(), k.end()) for k in found)


def _kernel(text: str, before: str, result: str, name: str, start: int) -> Signature:
    if result != "void":
        raise MetalError(f"{name} returns {result}: a kernel returns void")
    limit = re.search(r"max_total_threads_per_threadgroup\(\s*(\d+)\s*\)", before)
    threads = int(limit.group(1)) if limit else 0
    if not 32 <= threads <= MAX_THREADS or threads % 32:
        raise MetalError(
            f"{name}: max_total_threads_per_threadgroup of 32 to 1024, whole simdgroups, is due"
        )
    end = _closing(text, start - 1)
    parameters = tuple(
        _parameter(name, p)
        for p in re.split(r",(?![^\[(]*[\])])", " ".join(text[start:end].split()))
    )
    slots = [p.slot for p in parameters if p.slot is not None]
    if len(set(slots)) < len(slots):
        raise MetalError(f"{name}: a buffer slot is taken twice: {slots}")
    widths = {p.ctype[-1] in "23" and p.ctype[-1] for p in parameters if _may_be_vector(p)}
    if len(widths) > 1:
        raise MetalError(f"{name}: positions are all scalars or all vectors of one width")
    opening = text.find("{", end)
    if opening < 0:
        raise MetalError(f"{name} has no body")
    return Signature(name, threads, parameters, text[opening : _closing(text, opening)])


def _may_be_vector(p: Parameter) -> bool:
    return p.slot is None and ATTRIBUTES[p.attribute]


def _parameter(kernel: str, text: str) -> Parameter:
    found = re.fullmatch(r"\s*(.+?)\s*(\w+)\s*\[\[\s*(\w+)\s*(?:\(\s*(\d+)\s*\))?\s*\]\]\s*", text)
    if found is None:
        raise MetalError(f"{kernel}: a parameter without its attribute: {text}")
    ctype, name, attribute, number = found.groups()
    if attribute == "buffer":
        if not re.fullmatch(
            r"(device|constant) (const )?\w+ ?[*&]|const (device|constant) \w+ ?[*&]", ctype
        ):
            raise MetalError(f"{kernel}: {name} is no device or constant pointer: {ctype}")
        slot = int(number or -1)
        if not 0 <= slot <= MAX_SLOT:
            raise MetalError(f"{kernel}: buffer({number}) of {name} is not in 0 to {MAX_SLOT}")
        return Parameter(ctype, name, attribute, slot)
    if attribute not in ATTRIBUTES:
        raise MetalError(f"{kernel}: unknown attribute {attribute} of {name}")
    shape = re.fullmatch(r"(?:uint|ushort)([23]?)", ctype)
    if shape is None or (shape.group(1) and not ATTRIBUTES[attribute]):
        raise MetalError(f"{kernel}: {attribute} cannot be {ctype} {name}")
    return Parameter(ctype, name, attribute, None)


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for found in re.finditer(r"[(){}]", text[start:]):
        depth += 1 if found.group() in "({" else -1
        if depth == 0:
            return start + found.start()
    raise MetalError("a bracket is not closed")
