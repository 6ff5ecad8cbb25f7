"""Attention as GPU text: one body for both dialects, in two forms.

Rows that are few, or not of float16: a group takes up to 8 rows of a batch, its simdgroups take 32
keys at a time. Four lanes share a key and its product with all rows; then each lane has the score
of one key, and in the second product some columns of the values. Each simdgroup goes on with the
largest score and the sum that it has seen; they are merged at the end. q is in threadgroup memory.

Many rows of float16: a group takes 64 rows, its simdgroups 16 each, with q and the sums as tiles of
matrix units. A block of keys and values is staged in threadgroup memory for all of them; scores
pass through threadgroup memory, where two lanes share a row of the softmax. The weights enter the
second product as a sum of two halfs each, so that nothing is rounded to float16.
"""

from __future__ import annotations

from collections.abc import Mapping

from tensorlogic.codegen.c_text import LOAD, MEMORY, KernelText, bare
from tensorlogic.codegen.dialects import GROUP_MEMORY, assemble
from tensorlogic.codegen.gpu_attention_text import (
    HALFS,
    LAST_CAUSAL,
    MATRIX_ELEMENT,
    MATRIX_FINISH,
    MATRIX_SCORES,
    MATRIX_START,
    MATRIX_SUMS,
    OWN_NAMES,
    PLACE,
    ROWS_ELEMENT,
    ROWS_MERGE,
    ROWS_ROW,
    ROWS_SCORE,
    ROWS_SCORES,
    ROWS_START,
    ROWS_SUMS,
    ROWS_WEIGHT,
    SCALED,
    SHARED,
    STAGE,
)
from tensorlogic.codegen.gpu_matrices import LINES, UNITS
from tensorlogic.kernels.check import KernelError
from tensorlogic.kernels.ir import Stmt, Store, exprs_of
from tensorlogic.kernels.spec import Attention

GROUP = 128
"""Threads of a group: four simdgroups."""
_SIMDS = GROUP // 32
_MATRIX_ROWS = 16 * _SIMDS
_PAD = 8  # halfs after each line of a staged tile, so that a column spreads over the banks


def uses_matrix_units(spec: Attention) -> bool:
    """Whether tiles of 16 x 16 fit: many rows of float16, whose axes are contiguous."""
    half = spec.dtypes == ("f16",) * 3
    fits = all(0 < n <= 256 and n % 16 == 0 for n in (spec.depth, spec.width))
    return half and fits and spec.contiguous and not spec.few and not spec.split


def rows_each(spec: Attention) -> int:
    """Rows that a group works on."""
    if uses_matrix_units(spec):
        return _MATRIX_ROWS
    rows = 8 if not spec.few else 1 << (spec.few - 1).bit_length()
    columns = -(-spec.width // _columns(spec)[0]) * 8
    while rows > 1 and (_row_bytes(spec, rows) > GROUP_MEMORY or rows * columns > 128):
        rows //= 2
    if _row_bytes(spec, rows) > GROUP_MEMORY:
        raise KernelError(f"a row of q and of v takes {_row_bytes(spec, rows)} bytes on chip")
    return rows


def groups(spec: Attention, sizes: Mapping[str, float]) -> int:
    batches, heads, queries, parts = (
        int(sizes[n]) for n in ("batches", "heads", "queries", "parts")
    )
    return batches * parts * -(-heads * queries // rows_each(spec))


def render(spec: Attention, name: str, dialect: str, *, index: str = "i64") -> str:
    """The whole text in a dialect. Arguments as `Attention` has them; the parameter words are
    packed by `clike.pack_params(spec.all_params, ...)`."""
    rows = rows_each(spec)
    defines: dict[str, int | str] = {
        "DEPTH": spec.depth,
        "WIDTH": spec.width,
        "ROWS": rows,
        "SIMDS": _SIMDS,
    }
    if uses_matrix_units(spec):
        more = UNITS[dialect] + LINES[dialect] + SCALED[dialect]
        defines["KEYS"] = _keys_each(spec)
    else:
        lanes = _columns(spec)[0] // 8
        defines |= {"KEY_LANES": _KEY_LANES, "COLUMN_LANES": lanes}
        defines["COLUMNS"] = _columns(spec)[1]
        defines["Q_LINE"] = _q_line(spec)
        # Longer text takes compilers longer than it saves.
        pieces = _q_line(spec) // (8 * _KEY_LANES)
        defines["UNROLL_PIECES"] = "UNROLL" if pieces <= 4 else ""
        defines["UNROLL_KEYS"] = "UNROLL" if pieces <= 2 and spec.contiguous else ""
        more = ""
    text = "".join(f"#define {key} {value}\n" for key, value in defines.items())
    return assemble(dialect, body(spec, name), index, text + HALFS[dialect] + more)


def body(spec: Attention, name: str) -> str:
    """The text below the prelude, the same in both dialects but for the sizes there."""
    text = _Text(spec)
    shared = text.matrices() if uses_matrix_units(spec) else text.rows()
    return shared + text.text(name, GROUP)


_KEY_LANES = 4


def _q_line(spec: Attention) -> int:
    """Floats of a row of q, filled up with zeros."""
    return -(-max(spec.depth, 1) // (8 * _KEY_LANES)) * 8 * _KEY_LANES


def _columns(spec: Attention) -> tuple[int, int]:
    """Columns that lanes cover at once, and how often they do: eight neighbours a lane."""
    lanes = min(32, 1 << (-(-max(spec.width, 1) // 8) - 1).bit_length())
    return 8 * lanes, -(-max(spec.width, 1) // (8 * lanes))


def _row_bytes(spec: Attention, rows: int) -> int:
    sums = _columns(spec)[0] * _columns(spec)[1]
    return 4 * (rows * (_q_line(spec) + sums) + _SIMDS * rows * 34) + 512


def _keys_each(spec: Attention) -> int:
    """Keys that the form with matrix units stages at a time."""
    return 32 if max(spec.depth, spec.width) <= 128 else 16


class _Text(KernelText):
    """Prints one attention kernel."""

    def __init__(self, spec: Attention) -> None:
        super().__init__(spec.all_buffers, spec.all_params, OWN_NAMES)
        self.spec = spec
        self.fill = {n: self.c_names[b] for n, b in zip("qkv", self.buffers, strict=False)}
        for n, b in zip("qkv", self.buffers, strict=False):
            self.fill[f"{n}_fast"] = self._fast(n, self.offset(b))
        exprs = [spec.q_at, spec.k_at, spec.v_at, spec.scale, spec.stop]
        exprs += [] if spec.mask is None else [spec.mask]
        effects: tuple[Stmt, ...] = (*spec.checks, *spec.stores, *spec.row_stores)
        self.count([*exprs, *(e for s in effects for e in exprs_of(s))])

    def _fast(self, operand: str, offset: str) -> str:
        """Whether eight elements from a multiple of eight on are aligned as one piece."""
        if operand == "q" or not self.spec.contiguous:
            return "false"
        return f"(({operand}_row | {operand}_begin | {offset}) & 7) == 0"

    def begin(self) -> None:
        """Where the group stands, what it reads, how many keys count."""
        self.lines(PLACE)
        self.env["index", "batch"] = ("batch", 0)
        self.env["index", "part"] = ("part", 0)
        for name, e in zip("qkv", (self.spec.q_at, self.spec.k_at, self.spec.v_at), strict=True):
            self.line(f"const index_t {name}_begin = {bare(self.expr(e))};")
        self.line(f"const float scale = {bare(self.expr(self.spec.scale))};")
        self.line(f"const index_t stop = {bare(self.expr(self.spec.stop))};")
        for s in self.spec.checks:
            action = f"COUNT({self.c_names[s.status]}, {bare(self.expr(s.slot))})"
            self.under(["GROUP == 0", "THREAD == 0", f"!{self.expr(s.ok)}"], action)
        self.load_floor = 1
        causal = self.spec.causal
        self.lines(LAST_CAUSAL if causal else "const index_t seen = stop;")

    def masked(self, key: str, head: str, row: str) -> None:
        """The mask of the score `s`, if there is one, for a key below `stop`."""
        depth = len(self.chain) - 1
        for name, text in (("key", key), ("head", head), ("row", row)):
            self.env["index", name] = (text, depth)
        if self.spec.mask is None:
            return
        self.epoch += 1
        mask = self.spec.mask
        if mask.dtype == "f32":
            self.line(f"s += {bare(self.expr(mask))};")
        else:
            self.line(f"s = {self.expr(mask)} ? s : LOWEST;")

    def effects(self, stores: tuple[Store, ...], names: Mapping[str, str]) -> None:
        """Stores where `names` are what this block calls head, row, col, acc and so on."""
        depth = len(self.chain) - 1
        for name, text in names.items():
            kind = "var" if name in ("acc", "top", "total") else "index"
            self.env[kind, name] = (text, depth)
        for s in stores:
            self.store(s)

    # ---- few rows ----

    def rows(self) -> str:
        spec, fill = self.spec, self.fill
        columns = _columns(spec)[0] * _columns(spec)[1]
        rows = rows_each(spec)
        self.array("float", "q_rows", rows * _q_line(spec))
        self.array("float", "sums", rows * columns)
        self.array("float", "scores", _SIMDS * rows * 32)
        self.array("float", "tops", _SIMDS * rows)
        self.array("float", "totals", _SIMDS * rows)
        self.begin()
        q = LOAD.get(spec.dtypes[0], "{}").format(f"{fill['q']}[at]")
        self.lines(ROWS_START, element=q, **fill)
        with self.block("for (index_t k0 = first + 32 * SIMDGROUP; k0 < last; k0 += 32 * SIMDS)"):
            self.lines(ROWS_SCORES, **fill)
            with self.block("UNROLL\nfor (int r = 0; r < ROWS; r++)"):
                self.lines(ROWS_SCORE)
                with self.block("if (key < last)"):
                    self.line("s = own[r * 32 + LANE];")
                    self.masked("key", "heads_of[r]", "rows_of[r]")
                    if spec.causal:
                        self.line("s = key <= stop - queries + rows_of[r] ? s : LOWEST;")
                self.lines(ROWS_WEIGHT)
            self.lines(ROWS_SUMS, **fill)
        self.lines(ROWS_MERGE)
        acc = "sums[e]" if spec.split else "sums[e] / (total == 0.0f ? 1.0f : total)"
        with self.block(
            "for (int e = int(THREAD); e < ROWS * COLUMNS * 8 * COLUMN_LANES; e += 128)"
        ):
            self.lines(ROWS_ELEMENT)
            with self.block("if (n < rows && col < WIDTH)"):
                self.line(f"const float acc = {acc};")
                self.effects(
                    spec.stores, {"head": "head", "row": "row", "col": "col", "acc": "acc"}
                )
        if spec.row_stores:
            with self.block("if (int(THREAD) < ROWS && row0 + index_t(THREAD) < rows)"):
                self.lines(ROWS_ROW)
                names = {n: n for n in ("head", "row", "top", "total")}
                self.effects(spec.row_stores, names)
        return SHARED + "".join(
            _load_eight(name, spec.dtypes[i]) for i, name in ((1, "load_key"), (2, "load_value"))
        )

    # ---- many rows ----

    def matrices(self) -> str:
        spec, fill = self.spec, self.fill
        keys = _keys_each(spec)
        lines = 2 * keys * (spec.depth + spec.width + 2 * _PAD)
        self.array("uint4", "staged", max(lines, 32 * (spec.depth + _PAD)) // 16)
        own = 16 * max(keys + 4, keys + _PAD, 16)
        self.array("float", "scores", _SIMDS * own)
        self.array("float", "scales", _SIMDS * 16)
        self.begin()
        self.lines(MATRIX_START, own=str(own), **fill)
        with self.block("for (index_t k0 = 0; k0 < last; k0 += KEYS)"):
            self.lines(MATRIX_SCORES, **fill)
            with self.block("UNROLL\nfor (int i = 0; i < KEYS / 2; i++)"):
                self.line("const index_t key = k0 + part_first + i;")
                self.line("float s = LOWEST;")
                with self.block("if (key < last)"):
                    self.line("s = own[line * (KEYS + 4) + part_first + i] * scale;")
                    self.masked("key", "head", "row")
                    if spec.causal:
                        self.line("s = key <= stop - queries + row ? s : LOWEST;")
                self.line("weights[i] = s;")
                self.line("top = max_nan(top, s);")
            self.lines(MATRIX_SUMS)
        self.lines(MATRIX_FINISH)
        with self.block("UNROLL\nfor (int j = 0; j < WIDTH / 16; j++)"):
            self.lines("SIMD_BARRIER();\ntile_store(sums[j], own, 16);\nSIMD_BARRIER();")
            with self.block("for (int e = int(LANE); e < 256; e += 32)"):
                self.lines(MATRIX_ELEMENT)
                with self.block("if (n < rows)"):
                    self.line("const float acc = own[e] / (total == 0.0f ? 1.0f : total);")
                    names = {"head": "own_head", "row": "own_row", "col": "col", "acc": "acc"}
                    self.effects(spec.stores, names)
        return SHARED + STAGE


def _load_eight(name: str, dtype: str) -> str:
    """A function that reads eight neighbours as floats, zeros where `left` says they are not."""
    wide = {
        "f16": [f"half_at(piece.{'xyzw'[i // 2]}, {i % 2})" for i in range(8)],
        "bf16": [
            f"as_float(piece.{'xyzw'[i // 2]} {'& 0xffff0000u' if i % 2 else '<< 16'})"
            for i in range(8)
        ],
        "f32": [f"AT({'low' if i < 4 else 'high'}, {i % 4})" for i in range(8)],
    }[dtype]
    ctype = MEMORY[dtype]
    if dtype == "f32":
        read = (
            "const PACK(float, 4) low = load_pack<4>(from, 4, true);\n"
            "const PACK(float, 4) high = load_pack<4>(from + 4, 4, true);"
        )
    else:
        read = "const uint4 piece = *(DEVICE const uint4*)from;"
    element = LOAD.get(dtype, "{}").format("from[i * step]")
    lines = "\n".join(f"        out.x[{i}] = {e};" for i, e in enumerate(wide))
    return f"""\
FUNC Eight {name}(DEVICE const {ctype}* from, index_t step, index_t left, bool fast) {{
    Eight out;
    if (fast && left >= 8) {{
        {read}
{lines}
    }} else {{
        UNROLL
        for (int i = 0; i < 8; i++) out.x[i] = i < left ? {element} : 0.0f;
    }}
    return out;
}}
"""
