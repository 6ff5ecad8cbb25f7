"""What is read of quantized blocks: neighbouring bytes as words, as wide as addresses allow.

The elements that a lane decodes at once are a pack of neighbours of the block's last digit, at
`FIRST` and after it. The loads of all of them are brought to runs: places at constant distances
from one base address. A run of bytes is read in words of 2 to 16 bytes, a run of other elements as
a pack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

from tensorlogic.codegen.bits import power_of_two, simple
from tensorlogic.codegen.c_text import LOAD, MEMORY, KernelText, bare
from tensorlogic.kernels.ir import Buffer, Expr, const, index, nodes_of, var

FIRST = index("first")
"""The first of a lane's digits, a multiple of the pack."""


@dataclass
class Run:
    """Elements of a buffer at `base` plus each of some constant distances, all that a lane needs
    there. `size` elements are loaded at once."""

    buffer: Buffer
    base: Expr
    own: bool
    align: int
    places: set[int] = field(default_factory=set)
    names: dict[int, str] = field(default_factory=dict)


class Blocks:
    """The loads of some expressions as runs, and their text. `aligned` gives powers of two that
    divide parameters, `most` one that divides every buffer's beginning; rows of a team have what is
    their `own` for each of `rows`."""

    def __init__(
        self,
        text: KernelText,
        exprs: Iterable[Expr],
        pack: int,
        aligned: Mapping[str, int],
        own: Callable[[Expr], bool] = lambda e: False,
        rows: int = 1,
        most: int = 16,
    ) -> None:
        self.text, self.pack, self.aligned, self.most = text, pack, aligned, most
        self.own, self.rows = own, rows
        self.runs: dict[tuple[object, ...], Run] = {}
        self.loads: dict[Expr, tuple[Run, int]] = {}
        for e in exprs:
            for n in nodes_of(e):
                if n.op == "load" and len(n.args) == 1:
                    self.note(n)
        self.placed()

    def note(self, n: Expr) -> None:
        """A load: the run that it is part of."""
        terms, constant = self.terms(n.args[0])
        key = (n.attr, *sorted((k, c) for k, (_, c) in terms.items()))
        if key not in self.runs:
            base: Expr | None = None
            for e, c in terms.values():
                scaled = e if c == 1 else e * c
                base = scaled if base is None else base + scaled
            base = base if base is not None else const(0, "i64")
            own = self.own(n.args[0])
            self.runs[key] = Run(n.attr, base, own, self.alignment(terms))
        run = self.runs[key]
        run.places.add(constant)
        self.loads[n] = (run, constant)

    def terms(self, e: Expr) -> tuple[dict[int, tuple[Expr, int]], int]:
        """An address as a sum: terms by their structure with coefficients, and a constant."""
        out: dict[int, tuple[Expr, int]] = {}
        constant = 0
        stack = [(e, 1)]
        while stack:
            n, c = stack.pop()
            if n.op == "const":
                constant += c * int(n.attr)
            elif n.op in ("add", "sub"):
                stack += [(n.args[0], c), (n.args[1], c if n.op == "add" else -c)]
            elif n.op == "mul" and any(a.op == "const" for a in n.args):
                x, y = n.args
                x, y = (x, y) if y.op == "const" else (y, x)
                stack.append((x, c * int(y.attr)))
            else:
                k = self.text._key(n)
                out[k] = (n, out.get(k, (n, 0))[1] + c)
        return {k: v for k, v in out.items() if v[1]}, constant

    def alignment(self, terms: dict[int, tuple[Expr, int]]) -> int:
        found = [power_of_two(c) * self.divisor(e) for e, c in terms.values()]
        return min([self.most, *found])

    def divisor(self, e: Expr) -> int:
        """A power of two that divides an address's term."""
        if e.op == "param":
            return self.aligned.get(e.attr, 1)
        if e is FIRST:
            return self.pack
        if e.op == "mul":
            return min(prod(self.divisor(a) for a in e.args), 16)
        return 1

    def placed(self) -> None:
        """Names for what is loaded: words of bytes, packs of other elements, or single ones."""
        for run in self.runs.values():
            size = self.size(run)
            for at in sorted({p - p % size for p in run.places}):
                run.names[at] = self.text.unique(
                    f"{self.text.c_names[run.buffer]}_{self.kind(run)}"
                )

    def kind(self, run: Run) -> str:
        return "word" if run.buffer.dtype == "u8" else "pack" if self.size(run) > 1 else "one"

    def size(self, run: Run) -> int:
        """Elements of a buffer that are loaded at once."""
        align = min(run.align, 16)
        span = max(run.places) - min(run.places) + 1
        if run.buffer.dtype == "u8":
            if align >= 16 and span >= 12:
                return 16
            if align >= 8 and span >= 8:
                return 8
            return min(align, 4)
        packed = span >= self.pack and len(run.places) % self.pack == 0
        return self.pack if packed and align >= self.pack else 1

    def sizes(self) -> dict[Buffer, int]:
        """By buffer, of how many elements the address must be a multiple for wide loads."""
        out: dict[Buffer, int] = {}
        for run in self.runs.values():
            if not run.buffer.local:
                out[run.buffer] = max(out.get(run.buffer, 1), self.size(run))
        return out

    def declare(self) -> None:
        """Names for what is read."""
        for run in self.runs.values():
            rows = f"[{self.rows}]" if run.own else ""
            for name in run.names.values():
                self.text.line(f"{self.ctype(run)} {name}{rows};")

    def ctype(self, run: Run) -> str:
        size = self.size(run)
        if run.buffer.dtype == "u8":
            return {16: "PACK(int, 4)", 8: "int2"}.get(size, "int")
        memory = MEMORY[run.buffer.dtype]
        return f"PACK({memory}, {size})" if size > 1 else memory

    def read(self, own: bool, wide: bool, row: str = "") -> None:
        """The loads of what each row has for its own, or of what all share."""
        text, flag = self.text, str(wide).lower()
        for run in self.runs.values():
            if run.own != own:
                continue
            size = self.size(run)
            base = text.expr(run.base)
            for at, name in run.names.items():
                place = base if at == 0 else f"{base} + {at}" if base != "0" else str(at)
                source = f"{text.c_names[run.buffer]} + {place}"
                space = "_local" if run.buffer.local else ""
                if run.buffer.dtype == "u8" and size > 1:
                    value = f"load_word{size}({source}, {flag})"
                elif size > 1:
                    value = f"load_pack{space}<{size}>({source}, {size}, {flag})"
                else:
                    value = f"{text.c_names[run.buffer]}[{bare(place)}]"
                text.line(f"{name}{row if run.own else ''} = {value};")

    def elements(self, depth: int, row: str = "") -> Iterator[tuple[Expr, Expr]]:
        """What stands for each load: a field of a word, or an element of a pack. What rows share
        is known to the block at `depth`."""
        text, here = self.text, len(self.text.chain) - 1
        for load, (run, at) in self.loads.items():
            size = self.size(run)
            first = at - at % size
            name = run.names[first] + (row if run.own else "")
            level = here if run.own else depth
            if run.buffer.dtype == "u8":
                word = name
                if size == 16:
                    word = f"AT({name}, {(at - first) // 4})"
                elif size == 8:
                    word = f"{name}.{'xy'[(at - first) // 4]}"
                text.env["var", word] = (word, level)
                each = min(size, 4)
                yield load, _byte(var(word, "i32"), (at - first) % each, each)
                continue
            element = f"AT({name}, {at - first})" if size > 1 else name
            value = LOAD.get(run.buffer.dtype, "{}").format(element)
            text.env["var", element] = (value, level)
            yield load, var(element, load.dtype)

    def moving(self) -> set[str]:
        """The names of what differs from element to element of a pack."""
        runs = [r for r in self.runs.values() if FIRST in nodes_of(r.base)]
        return {name for r in runs for name in r.names.values()}


def _byte(word: Expr, at: int, size: int) -> Expr:
    """A byte of a word of 2 or 4."""
    shifted = word >> (8 * at) if at else word
    return shifted if at == size - 1 == 3 else simple(shifted & 255, (shifted, const(255, "i32")))
