"""Attention as GPU text: one body for both dialects, in two forms.

Rows that are few, or not of float16: a group takes up to 8 rows of a batch, its simdgroups take 32
keys at a time. Four lanes share a key and its product with all rows; then each lane has the score
of one key, and in the second product some columns of the values. Each simdgroup goes on with the
largest score and the sum that it has seen; they are merged at the end. q is in threadgroup memory.

Many rows of float16: a group takes 64 rows, its simdgroups 16 each, with q and the sums as tiles of
matrix units. A block of keys and values is staged in threadgroup memory for all of them; scores
pass through threadgroup memory, where two lanes share a row of the softmax.
"""

from __future__ import annotations

from collections.abc import Mapping

from tensorlogic.codegen.c_text import LOAD, MEMORY, KernelText, bare
from tensorlogic.codegen.dialects import GROUP_MEMORY, assemble
from tensorlogic.codegen.gpu_matmul import MATRICES
from tensorlogic.kernels.check import KernelError
from tensorlogic.kernels.ir import Expr, Store, exprs_of
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
    defines = {"DEPTH": spec.depth, "WIDTH": spec.width, "ROWS": rows, "SIMDS": _SIMDS}
    if uses_matrix_units(spec):
        more = MATRICES[dialect] + _SCALED[dialect]
        defines["KEYS"] = _keys_each(spec)
    else:
        lanes = _columns(spec)[0] // 8
        defines |= {"KEY_LANES": _KEY_LANES, "COLUMN_LANES": lanes}
        defines["COLUMNS"] = _columns(spec)[1]
        defines["Q_LINE"] = _q_line(spec)
        more = ""
    text = "".join(f"#define {key} {value}\n" for key, value in defines.items())
    return assemble(dialect, body(spec, name), index, text + _HALFS[dialect] + more)


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
        super().__init__(spec.all_buffers, spec.all_params, _OWN_NAMES)
        self.spec = spec
        self.fill = {n: self.c_names[b] for n, b in zip("qkv", self.buffers, strict=False)}
        for n, b in zip("qkv", self.buffers, strict=False):
            self.fill[f"{n}_fast"] = self._fast(n, self.offset(b))
        exprs = [spec.q_at, spec.k_at, spec.v_at, spec.scale, spec.stop]
        exprs += [] if spec.mask is None else [spec.mask]
        effects = (*spec.checks, *spec.stores, *spec.row_stores)
        self.count([*exprs, *(e for s in effects for e in exprs_of(s))])

    def _fast(self, operand: str, offset: str) -> str:
        """Whether eight elements from a multiple of eight on are aligned as one piece."""
        if operand == "q" or not self.spec.contiguous:
            return "false"
        return f"(({operand}_row | {operand}_begin | {offset}) & 7) == 0"

    def begin(self) -> None:
        """Where the group stands, what it reads, how many keys count."""
        self.lines(_PLACE)
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
        self.lines(_LAST_CAUSAL if causal else "const index_t seen = stop;")

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
        self.lines(_ROWS_START, element=q, **fill)
        with self.block("for (index_t k0 = first + 32 * SIMDGROUP; k0 < last; k0 += 32 * SIMDS)"):
            self.lines(_ROWS_SCORES, **fill)
            with self.block("UNROLL\nfor (int r = 0; r < ROWS; r++)"):
                self.lines(_ROWS_SCORE)
                with self.block("if (key < last)"):
                    self.line("s = own[r * 32 + LANE];")
                    self.masked("key", "heads_of[r]", "rows_of[r]")
                    if spec.causal:
                        self.line("s = key <= stop - queries + rows_of[r] ? s : LOWEST;")
                self.lines(_ROWS_WEIGHT)
            self.lines(_ROWS_SUMS, **fill)
        self.lines(_ROWS_MERGE)
        acc = "sums[e]" if spec.split else "sums[e] / (total == 0.0f ? 1.0f : total)"
        with self.block("for (int e = int(THREAD); e < ROWS * COLUMNS * 8 * COLUMN_LANES; e += 128)"):
            self.lines(_ROWS_ELEMENT)
            with self.block("if (n < rows && col < WIDTH)"):
                self.line(f"const float acc = {acc};")
                self.effects(spec.stores, {"head": "head", "row": "row", "col": "col", "acc": "acc"})
        if spec.row_stores:
            with self.block("if (int(THREAD) < ROWS && row0 + index_t(THREAD) < rows)"):
                self.lines(_ROWS_ROW)
                names = {n: n for n in ("head", "row", "top", "total")}
                self.effects(spec.row_stores, names)
        return _SHARED + "".join(
            _load_eight(name, spec.dtypes[i]) for i, name in ((1, "load_key"), (2, "load_value"))
        )

    # ---- many rows ----

    def matrices(self) -> str:
        spec, fill = self.spec, self.fill
        keys = _keys_each(spec)
        lines = 2 * keys * (spec.depth + spec.width + 2 * _PAD)
        self.array("uint4", "staged", max(lines, 32 * (spec.depth + _PAD)) // 16)
        own = 16 * max(keys + 4, (keys + _PAD) // 2 + 16)
        self.array("float", "scores", _SIMDS * own)
        self.array("float", "scales", _SIMDS * 16)
        self.begin()
        self.lines(_MATRIX_START, own=str(own), **fill)
        with self.block("for (index_t k0 = 0; k0 < last; k0 += KEYS)"):
            self.lines(_MATRIX_SCORES, **fill)
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
            self.lines(_MATRIX_SUMS)
        self.lines(_MATRIX_FINISH)
        with self.block("UNROLL\nfor (int j = 0; j < WIDTH / 16; j++)"):
            self.lines("SIMD_BARRIER();\ntile_store(sums[j], room, 16);\nSIMD_BARRIER();")
            with self.block("for (int e = int(LANE); e < 256; e += 32)"):
                self.lines(_MATRIX_ELEMENT)
                with self.block("if (n < rows)"):
                    self.line("const float acc = room[e] / (total == 0.0f ? 1.0f : total);")
                    names = {"head": "own_head", "row": "own_row", "col": "col", "acc": "acc"}
                    self.effects(spec.stores, names)
        return _SHARED + _STAGE


def _load_eight(name: str, dtype: str) -> str:
    """A function that reads eight neighbours as floats, zeros where `left` says they are not."""
    wide = {
        "f16": [f"half_at(piece.{'xyzw'[i // 2]}, {i % 2})" for i in range(8)],
        "bf16": [
            f"as_float(piece.{'xyzw'[i // 2]} {'& 0xffff0000u' if i % 2 else '<< 16'})"
            for i in range(8)
        ],
        "f32": [f"{'low' if i < 4 else 'high'}[{i % 4}]" for i in range(8)],
    }[dtype]
    ctype = MEMORY[dtype]
    if dtype == "f32":
        read = "const PACK(float) low = load_pack(from, 4, true), high = load_pack(from + 4, 4, true);"
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


_OWN_NAMES = tuple(
    """acc batch head row col key part rows blocks unit row0 q_begin k_begin v_begin scale stop seen
    share first last q_rows sums scores tops totals top total own line lane_key sub s p r i j u d e n
    k0 at x w t step weight weights rescale old heads_of rows_of staged scales room part_first
    fragments fragment own_head own_row low high piece k_tile v_tile changed inside own_top
    own_total begin Eight LOWEST finite half_at load_key load_value stage DEPTH WIDTH ROWS SIMDS
    KEYS KEY_LANES COLUMN_LANES COLUMNS Q_LINE K_LINE V_LINE P_LINE TileC TileAB
    tile_scale k_fast v_fast from step left fast out""".split()  # noqa: SIM905
)

_SHARED = """\
#define LOWEST as_float(0xff800000u)
FUNC float finite(float x) { return as_int(x) == int(0xff800000u) ? 0.0f : x; }
struct Eight { float x[8]; };
"""

_PLACE = """\
const index_t rows = heads * queries;
const index_t blocks = (rows + ROWS - 1) / ROWS;
const index_t part = index_t(GROUP) % parts;
const index_t unit = index_t(GROUP) / parts;
const index_t batch = unit / blocks;
if (batch >= batches) return;
const index_t row0 = unit % blocks * ROWS;
"""

# The last key that any row of the group sees: rows of one head are in order.
_LAST_CAUSAL = """\
const index_t end = row0 + ROWS < rows ? row0 + ROWS : rows;
const bool one_head = row0 / queries == (end - 1) / queries;
const index_t most = one_head ? stop - queries + (end - 1) % queries + 1 : stop;
const index_t seen = most < 0 ? 0 : most;
"""

_ROWS_START = """\
const index_t share = ((stop + parts - 1) / parts + 31) / 32 * 32;
const index_t first = part * share;
const index_t last = first + share < seen ? first + share : seen;
const bool k_fast = $k_fast;
const bool v_fast = $v_fast;
for (int e = int(THREAD); e < ROWS * Q_LINE; e += 128) {
    const index_t n = row0 + e / Q_LINE, d = e % Q_LINE;
    const index_t at = q_begin + n / queries * q_head + n % queries * q_row + d * q_depth;
    q_rows[e] = n < rows && d < DEPTH ? $element * scale : 0.0f;
}
index_t heads_of[ROWS], rows_of[ROWS];
float top[ROWS], total[ROWS], acc[ROWS][COLUMNS * 8];
UNROLL
for (int r = 0; r < ROWS; r++) {
    const index_t n = row0 + r < rows ? row0 + r : rows - 1;
    heads_of[r] = n / queries;
    rows_of[r] = n % queries;
    top[r] = LOWEST;
    total[r] = 0.0f;
    UNROLL
    for (int i = 0; i < COLUMNS * 8; i++) acc[r][i] = 0.0f;
}
THREADGROUP float* own = scores + SIMDGROUP * (ROWS * 32);
$k += k_begin;
$v += v_begin;
GROUP_BARRIER();
"""

_ROWS_SCORES = """\
UNROLL
for (int t = 0; t < KEY_LANES; t++) {
    const int lane_key = t * (32 / KEY_LANES) + int(LANE) / KEY_LANES;
    const int sub = int(LANE) % KEY_LANES;
    float s[ROWS];
    UNROLL
    for (int r = 0; r < ROWS; r++) s[r] = 0.0f;
    UNROLL
    for (int p = 0; p < Q_LINE / (8 * KEY_LANES); p++) {
        const int d = (p * KEY_LANES + sub) * 8;
        const index_t left = k0 + lane_key < last ? DEPTH - d : 0;
        const index_t at = (k0 + lane_key) * k_row + d * k_depth;
        const Eight x = load_key($k + at, k_depth, left, k_fast);
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            UNROLL
            for (int u = 0; u < 8; u++) s[r] = math_fma(x.x[u], q_rows[r * Q_LINE + d + u], s[r]);
        }
    }
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        UNROLL
        for (uint i = 1; i < KEY_LANES; i <<= 1) s[r] += lane_xor(s[r], i);
        if (sub == 0) own[r * 32 + lane_key] = s[r];
    }
}
SIMD_BARRIER();
const index_t key = k0 + index_t(LANE);
"""

_ROWS_SCORE = "float s = LOWEST;"

_ROWS_WEIGHT = """\
float most = s;
UNROLL
for (uint i = 16; i > 0; i >>= 1) most = max_nan(most, lane_xor(most, i));
const float old = top[r];
top[r] = max_nan(old, most);
const float rescale = math_exp(old - finite(top[r]));
const float weight = math_exp(s - finite(top[r]));
total[r] = math_fma(total[r], rescale, weight);
own[r * 32 + LANE] = weight;
UNROLL
for (int i = 0; i < COLUMNS * 8; i++) acc[r][i] *= rescale;
"""

_ROWS_SUMS = """\
SIMD_BARRIER();
UNROLL
for (int t = 0; t < COLUMN_LANES; t++) {
    const int lane_key = t * (32 / COLUMN_LANES) + int(LANE) / COLUMN_LANES;
    UNROLL
    for (int p = 0; p < COLUMNS; p++) {
        const int e = (p * COLUMN_LANES + int(LANE) % COLUMN_LANES) * 8;
        const index_t left = k0 + lane_key < last ? WIDTH - e : 0;
        const index_t at = (k0 + lane_key) * v_row + e * v_col;
        const Eight x = load_value($v + at, v_col, left, v_fast);
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            const float w = own[r * 32 + lane_key];
            UNROLL
            for (int u = 0; u < 8; u++) acc[r][p * 8 + u] = math_fma(w, x.x[u], acc[r][p * 8 + u]);
        }
    }
}
SIMD_BARRIER();
"""

_ROWS_MERGE = """\
UNROLL
for (int r = 0; r < ROWS; r++) {
    UNROLL
    for (uint i = 16; i > 0; i >>= 1) total[r] += lane_xor(total[r], i);
    if (LANE == 0) {
        tops[SIMDGROUP * ROWS + r] = top[r];
        totals[SIMDGROUP * ROWS + r] = total[r];
    }
}
GROUP_BARRIER();
UNROLL
for (int r = 0; r < ROWS; r++) {
    float most = tops[r];
    UNROLL
    for (int i = 1; i < SIMDS; i++) most = max_nan(most, tops[i * ROWS + r]);
    const float rescale = math_exp(top[r] - finite(most));
    UNROLL
    for (int i = 0; i < COLUMNS * 8; i++) {
        acc[r][i] *= rescale;
        UNROLL
        for (uint j = COLUMN_LANES; j < 32; j <<= 1) acc[r][i] += lane_xor(acc[r][i], j);
    }
}
for (int i = 0; i < SIMDS; i++) {
    if (int(SIMDGROUP) == i && LANE < COLUMN_LANES) {
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            UNROLL
            for (int p = 0; p < COLUMNS; p++) {
                UNROLL
                for (int u = 0; u < 8; u++) {
                    const int e = (p * COLUMN_LANES + int(LANE)) * 8 + u;
                    const int at = r * (COLUMNS * COLUMN_LANES * 8) + e;
                    sums[at] = acc[r][p * 8 + u] + (i == 0 ? 0.0f : sums[at]);
                }
            }
        }
    }
    GROUP_BARRIER();
}
"""

_OF_ALL_SIMDS = """\
float top = tops[r];
UNROLL
for (int i = 1; i < SIMDS; i++) top = max_nan(top, tops[i * ROWS + r]);
float total = 0.0f;
UNROLL
for (int i = 0; i < SIMDS; i++) {
    total += totals[i * ROWS + r] * math_exp(tops[i * ROWS + r] - finite(top));
}
const index_t n = row0 + r;
const index_t head = n / queries;
const index_t row = n % queries;
"""

_ROWS_ELEMENT = (
    """\
const int r = e / (COLUMNS * 8 * COLUMN_LANES);
const index_t col = e % (COLUMNS * 8 * COLUMN_LANES);
"""
    + _OF_ALL_SIMDS
)

_ROWS_ROW = "const int r = int(THREAD);\n" + _OF_ALL_SIMDS

_STAGE = """\
// Lines of halfs from device memory into a tile; zeros from line `count` on.
template <int WIDE, int LINES>
FUNC void stage(THREADGROUP half* to, DEVICE const half* from, index_t row, index_t count,
                bool fast, int thread_) {
    for (int e = thread_; e < LINES * WIDE / 8; e += 128) {
        const int line = e / (WIDE / 8), first = e % (WIDE / 8) * 8;
        uint4 piece;
        piece.x = piece.y = piece.z = piece.w = 0u;
        if (line < count) {
            DEVICE const half* p = from + line * row + first;
            if (fast) {
                piece = *(DEVICE const uint4*)p;
            } else {
                piece.x = half_bits(p[0]) | half_bits(p[1]) << 16;
                piece.y = half_bits(p[2]) | half_bits(p[3]) << 16;
                piece.z = half_bits(p[4]) | half_bits(p[5]) << 16;
                piece.w = half_bits(p[6]) | half_bits(p[7]) << 16;
            }
        }
        *(THREADGROUP uint4*)(to + line * (WIDE + 8) + first) = piece;
    }
}
"""

_MATRIX_START = """\
const int K_LINE = DEPTH + 8;
const int V_LINE = WIDTH + 8;
const int P_LINE = KEYS + 8;
const index_t last = seen;
const bool k_fast = $k_fast;
const bool v_fast = $v_fast;
THREADGROUP half* k_tile = (THREADGROUP half*)staged;
THREADGROUP half* v_tile = k_tile + KEYS * K_LINE;
THREADGROUP float* own = scores + SIMDGROUP * $own;
THREADGROUP float* room = own + 8 * P_LINE;
THREADGROUP float* rescale = scales + SIMDGROUP * 16;
const int line = int(LANE) / 2;
const int part_first = int(LANE) % 2 * (KEYS / 2);
const index_t n0 = row0 + index_t(SIMDGROUP) * 16;
const index_t own_n = n0 + line < rows ? n0 + line : rows - 1;
const index_t head = own_n / queries;
const index_t row = own_n % queries;
TileAB fragments[DEPTH / 16];
for (int i = 0; i < SIMDS; i++) {
    GROUP_BARRIER();
    for (int e = int(THREAD); e < 16 * DEPTH; e += 128) {
        index_t n = row0 + i * 16 + e / DEPTH;
        if (n >= rows) n = rows - 1;
        const index_t at = n / queries * q_head + n % queries * q_row + e % DEPTH * q_depth;
        k_tile[e / DEPTH * K_LINE + e % DEPTH] = $q[q_begin + at];
    }
    GROUP_BARRIER();
    if (int(SIMDGROUP) == i) {
        UNROLL
        for (int d = 0; d < DEPTH / 16; d++) tile_load_a(fragments[d], k_tile + 16 * d, K_LINE);
    }
}
TileC sums[WIDTH / 16];
UNROLL
for (int j = 0; j < WIDTH / 16; j++) tile_clear(sums[j]);
float top = LOWEST, total = 0.0f;
$k += k_begin;
$v += v_begin;
"""

_MATRIX_SCORES = """\
GROUP_BARRIER();
stage<DEPTH, KEYS>(k_tile, $k + k0 * k_row, k_row, last - k0, k_fast, int(THREAD));
stage<WIDTH, KEYS>(v_tile, $v + k0 * v_row, v_row, last - k0, v_fast, int(THREAD));
GROUP_BARRIER();
UNROLL
for (int j = 0; j < KEYS / 16; j++) {
    TileC s;
    tile_clear(s);
    UNROLL
    for (int d = 0; d < DEPTH / 16; d++) {
        TileAB fragment;
        tile_load_b_turned(fragment, k_tile + 16 * j * K_LINE + 16 * d, K_LINE);
        tile_multiply(s, fragments[d], fragment);
    }
    tile_store(s, own + 16 * j, KEYS + 4);
}
SIMD_BARRIER();
float weights[KEYS / 2];
const float old = top;
"""

_MATRIX_SUMS = """\
top = max_nan(top, lane_xor(top, 1));
const float scaled = math_exp(old - finite(top));
total *= scaled;
SIMD_BARRIER();
UNROLL
for (int i = 0; i < KEYS / 2; i++) {
    const half w = half(math_exp(weights[i] - finite(top)));
    total += float(w);
    ((THREADGROUP half*)own)[line * P_LINE + part_first + i] = w;
}
if (part_first == 0) rescale[line] = scaled;
SIMD_BARRIER();
int changed = as_int(scaled) != as_int(1.0f);
UNROLL
for (uint i = 16; i > 1; i >>= 1) changed |= lane_xor(changed, i);
if (changed != 0) {
    UNROLL
    for (int j = 0; j < WIDTH / 16; j++) tile_scale(sums[j], rescale, room, int(LANE));
}
UNROLL
for (int i = 0; i < KEYS / 16; i++) {
    TileAB p;
    tile_load_a(p, (THREADGROUP half*)own + 16 * i, P_LINE);
    UNROLL
    for (int j = 0; j < WIDTH / 16; j++) {
        TileAB fragment;
        tile_load_b(fragment, v_tile + 16 * i * V_LINE + 16 * j, V_LINE);
        tile_multiply(sums[j], p, fragment);
    }
}
"""

_MATRIX_FINISH = """\
total += lane_xor(total, 1);
SIMD_BARRIER();
if (part_first == 0) rescale[line] = total;
"""

_MATRIX_ELEMENT = """\
const index_t n = n0 + e / 16;
const index_t own_head = n / queries;
const index_t own_row = n % queries;
const index_t col = 16 * j + e % 16;
const float total = rescale[e / 16];
"""

_HALFS = {
    "metal": "FUNC float half_at(uint x, int i) { return float(as_type<half2>(x)[i]); }\n",
    "cuda": """\
FUNC float half_at(uint x, int i) {
    half h;
    h.bits = ushort(i ? x >> 16 : x);
    return float(h);
}
""",
}

# Each row of a tile times its own number. Metal does not say which lane holds which element.
_SCALED = {
    "metal": """\
FUNC void tile_scale(thread TileC& c, threadgroup const float* by, threadgroup float* room, int lane) {
    tile_store(c, room, 16);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (int e = lane; e < 256; e += 32) room[e] *= by[e / 16];
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (int i = 0; i < 4; i++) simdgroup_load(c.part[i], room + i / 2 * 128 + i % 2 * 8, 16, 0, false);
    simdgroup_barrier(mem_flags::mem_threadgroup);
}
""",
    "cuda": """\
FUNC void tile_scale(TileC& c, const float* by, float* room, int lane) {
    for (int i = 0; i < 8; i++) c.part[i] *= by[lane / 4 + i / 2 % 2 * 8];
}
""",
}
