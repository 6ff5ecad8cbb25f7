"""Matrix products as GPU text: one body for both dialects, a tile of the result for each group.

Two float16 operands go through matrix units: the group stages 16-byte pieces of A and B in
threadgroup memory (the next pieces are on their way while these are multiplied), where CUDA moves
them about in their line, so that a column spreads over the banks. Its simdgroups multiply 16 x 16
tiles: one m16n8k16 instruction a half on CUDA, eight products of 8 x 8 simdgroup matrices on Metal;
on Hopper, four warps together multiply straight from threadgroup memory. B may also be blocks of a
quantized type, which are decoded on their way, or windows, which are read where they lie
(`gpu_windows.py`). Other types are multiplied in float32 by each
thread. All accumulate in float32, take any extents and strides, and end in the epilogue's stores,
element by element.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

from tensorlogic.codegen import gpu_blocks, gpu_windows
from tensorlogic.codegen.c_text import LOAD, KernelText
from tensorlogic.codegen.dialects import GROUP_MEMORY, assemble
from tensorlogic.codegen.gpu_matrices import matrices
from tensorlogic.codegen.gpu_tiles import LARGE, MIDDLE, PLAIN, SMALL, GpuTile
from tensorlogic.kernels.spec import Matmul
from tensorlogic.quants import QUANTS, QuantType


def uses_matrix_units(spec: Matmul) -> bool:
    return spec.a_dtype == "f16" and (spec.b_dtype == "f16" or spec.b_dtype in QUANTS)


def choose_tile(spec: Matmul, dialect: str, sizes: Mapping[str, float] | None = None) -> GpuTile:
    """The tile for a launch (`sizes` has M, N and batches), or for large ones; each is a kernel."""
    if not uses_matrix_units(spec):
        return PLAIN
    if dialect != "cuda":
        return SMALL
    for tile in (LARGE, MIDDLE):
        if sizes is None or groups(tile, sizes) >= ENOUGH:
            return tile
    return SMALL


ENOUGH = 200
"""Groups that keep a large GPU busy."""


def groups(tile: GpuTile, sizes: Mapping[str, float]) -> int:
    m, n, batches = (int(sizes[name]) for name in ("M", "N", "batches"))
    apart = int(sizes.get("groups", batches))
    columns = n * batches // max(apart, 1)  # of windows, those of all images follow each other
    return -(-m // tile.m) * -(-columns // tile.n) * apart


def render(
    spec: Matmul, name: str, dialect: str, tile: GpuTile | None = None, *, index: str = "i64"
) -> str:
    """The whole text of a product in a dialect. Arguments as `Matmul` has them; the parameter
    words are packed by `clike.pack_params(spec.all_params, ...)`."""
    tile = tile or choose_tile(spec, dialect)
    sizes = {"THREADS": tile.threads, "TILE_M": tile.m, "TILE_N": tile.n, "TILE_K": tile.k}
    more = "".join(f"#define {key} {value}\n" for key, value in sizes.items())
    if uses_matrix_units(spec):
        more += f"#define STAGES {_stages(tile, dialect)}\n"
        more += matrices(dialect, tile, spec.a_contiguous == "m", not _along_k(spec))
    return assemble(dialect, body(spec, name, tile, dialect), index, more)


MEMORY = {"metal": GROUP_MEMORY, "cuda": 48 * 1024}
"""Bytes of threadgroup memory that a product may use: what CUDA gives without being asked."""


def body(spec: Matmul, name: str, tile: GpuTile, dialect: str) -> str:
    """The text below the prelude, the same in both dialects but for the tile's sizes."""
    printer = KernelText(spec.all_buffers, spec.all_params, _OWN_NAMES, MEMORY[dialect])
    a, b = (printer.c_names[x] for x in printer.buffers[:2])
    quant = QUANTS.get(spec.b_dtype)
    reading = _READING if quant is None else _READING_BLOCKS
    inside, column = "row < M && col < N", None
    if spec.windows:
        fill = None if spec.fill is None else printer.expr(spec.fill)
        reading = gpu_windows.reading(spec, b, fill, uses_matrix_units(spec))
        inside, column = "row < M && across < columns", 2
    if uses_matrix_units(spec):
        printer.array("uint4", "tiles", _matrix_bytes(tile, dialect) // 16, "LOCAL_TILES")
        layout = _matrix_layout(spec) if quant is None else _block_layout(spec, quant)
        loop = Template(_PLACE + _MATRIX_LOOP).safe_substitute(reading)
        printer.lines(loop, a=a, b=b, **layout)
        with (
            printer.block("UNROLL\nfor (int i = 0; i < SIMD_M / 16; i++)"),
            printer.block("UNROLL\nfor (int j = 0; j < SIMD_N / 16; j += 2)"),
        ):
            printer.lines(_MATRIX_STORE)
            if spec.windows:
                printer.lines(gpu_windows.COLUMN, across="col0 + simd_col + 16 * j + int(LANE)")
            with printer.block("for (int e = int(LANE); e < 16 * 32; e += 32)"):
                printer.line(_MATRIX_ROW)
                if not spec.windows:
                    printer.line(_MATRIX_COLUMN)
                with printer.block(f"if ({inside})"):
                    printer.epilogue(spec.stores, "sum[e]", column)
            printer.line("SIMD_BARRIER();")
    else:
        load = {
            x: LOAD.get(dtype, "{}").format(f"{x_name}[at]")
            for x, x_name, dtype in (("load_a", a, spec.a_dtype), ("load_b", b, spec.b_dtype))
        }
        lanes = {
            "a_line": "e / TILE_K" if spec.a_contiguous != "m" else "e % TILE_M",
            "a_depth": "e % TILE_K" if spec.a_contiguous != "m" else "e / TILE_M",
            "b_line": "e % TILE_N" if spec.b_contiguous != "k" else "e / TILE_K",
            "b_depth": "e / TILE_N" if spec.b_contiguous != "k" else "e % TILE_K",
        }
        printer.array("float", "tile_a", tile.k * (tile.m + 4))
        printer.array("float", "tile_b", tile.k * (tile.n + 4))
        loop = Template(_PLACE + _PLAIN_LOOP).safe_substitute(reading)
        printer.lines(loop, a=a, b=b, **load, **lanes)
        with (
            printer.block("UNROLL\nfor (int i = 0; i < 4; i++)"),
            printer.block("UNROLL\nfor (int j = 0; j < 4; j++)"),
        ):
            printer.line(_PLAIN_ROW)
            if spec.windows:
                printer.lines(gpu_windows.COLUMN, across=_PLAIN_ACROSS)
            else:
                printer.line(f"const index_t col = {_PLAIN_ACROSS};")
            with printer.block(f"if ({inside})"):
                printer.epilogue(spec.stores, "sums[i][j]", column)
    shared = ""
    if uses_matrix_units(spec):
        shared = _FETCH + Template(_MULTIPLY).substitute(_matrix_layout(spec))
    if quant is not None:
        shared += gpu_blocks.decoder(quant)
    if spec.windows:
        shared += gpu_windows.WALK
    return shared + printer.text(name, "THREADS")


def _along_k(spec: Matmul) -> bool:
    """Whether lines of a stage of b are along k."""
    return spec.windows or spec.b_contiguous == "k"


def _stage_bytes(tile: GpuTile) -> int:
    return 2 * tile.k * (tile.m + tile.n)


def _stages(tile: GpuTile, dialect: str) -> int:
    """Whether one stage can be filled while the other is multiplied."""
    return 2 if 2 * _stage_bytes(tile) <= MEMORY[dialect] else 1


def _matrix_bytes(tile: GpuTile, dialect: str) -> int:
    """Threadgroup memory: the stages, or later 16 x 32 sums for each simdgroup."""
    return max(_stages(tile, dialect) * _stage_bytes(tile), tile.threads // 32 * 16 * 32 * 4)


def _fast(operand: str, line_step: str, word: int) -> str:
    """Whether each piece of eight halfs is aligned: strides and the offset are multiples of 8."""
    return f"({line_step} | {operand}_batch | PARAM({word})) % 8 == 0"


def _matrix_layout(spec: Matmul) -> dict[str, str]:
    """How A and B are staged: in lines along the axis that is contiguous in memory."""
    across_m, along_k = spec.a_contiguous == "m", _along_k(spec)
    at = len(spec.all_params)
    return {
        "a_lines": "TILE_K" if across_m else "TILE_M",
        "a_width": "TILE_M" if across_m else "TILE_K",
        "a_line": "k0 + line" if across_m else "row0 + line",
        "a_first": "row0 + first" if across_m else "k0 + first",
        "a_line_end": "K" if across_m else "M",
        "a_first_end": "M" if across_m else "K",
        "a_line_step": "a_k" if across_m else "a_m",
        "a_step": "1" if spec.a_contiguous else "a_k",
        "a_fast": _fast("a", "a_k" if across_m else "a_m", at) if spec.a_contiguous else "false",
        "load_a": "tile_load_a_turned" if across_m else "tile_load_a",
        "a_at": "k, simd_row + 16 * i" if across_m else "simd_row + 16 * i, k",
        "b_lines": "TILE_N" if along_k else "TILE_K",
        "b_width": "TILE_K" if along_k else "TILE_N",
        "b_line": "col0 + line" if along_k else "k0 + line",
        "b_first": "k0 + first" if along_k else "col0 + first",
        "b_line_end": "N" if along_k else "K",
        "b_first_end": "K" if along_k else "N",
        "b_line_step": "b_n" if along_k else "b_k",
        "b_step": "1" if spec.b_contiguous else "b_n",
        "b_fast": _fast("b", "b_n" if along_k else "b_k", at + 1) if spec.b_contiguous else "false",
        "load_b": "tile_load_b_turned" if along_k else "tile_load_b",
        "b_at": "simd_col + 16 * j, k" if along_k else "k, simd_col + 16 * j",
        "place_a": "ACROSS" if across_m else "ALONG",
        "place_b": "ALONG" if along_k else "ACROSS",
    }


def _block_layout(spec: Matmul, quant: QuantType) -> dict[str, str]:
    """B in lines along k, decoded from blocks."""
    width = gpu_blocks.alignment(quant)
    at = len(spec.all_params) + 1
    return {
        **_matrix_layout(spec),
        "b_fast": f"((b_n | b_batch | PARAM({at})) & {width - 1}) == 0",
        "block": str(quant.block),
        "nbytes": str(quant.nbytes),
    }


_OWN_NAMES = (
    tuple(
        """acc batch row col tiles_m tiles_n group band height row0 col0 simd_row simd_col sums sum
    next_a next_b ready_b tiles tile_a tile_b k0 a_fast b_fast i j k e q x y at line first piece
    left fragment_a fragment_b A_PIECES B_PIECES TILE_M TILE_N TILE_K SIMDS_N SIMD_M
    STAGES stage now_a now_b multiply wide_multiply operand column decoded SIMD_N THREADS
    fetch pair TileC TileAB fetched Fetched""".split()  # noqa: SIM905
    )
    + gpu_windows.OWN_NAMES
)

# Groups go down bands of 8 tiles, so that those at work together share what they read.
_PLACE = """\
${columns_of}const index_t tiles_m = (M + TILE_M - 1) / TILE_M;
const index_t tiles_n = ($columns + TILE_N - 1) / TILE_N;
const index_t $batch = index_t(GROUP) / (tiles_m * tiles_n);
if ($batch >= $batches) return;
const index_t group = index_t(GROUP) % (tiles_m * tiles_n);
const index_t band = group / (8 * tiles_n);
const index_t height = tiles_m - 8 * band < 8 ? tiles_m - 8 * band : 8;
const index_t row0 = (8 * band + group % (8 * tiles_n) % height) * TILE_M;
const index_t col0 = group % (8 * tiles_n) / height * TILE_N;
$a += $batch * a_batch;
$start
"""

_FETCH = """\
// Two halfs of a line, zeros beyond its end; `left` elements are left of it.
FUNC uint pair(DEVICE const half* line, index_t step, index_t left, int i) {
    const uint low = i < left ? half_bits(line[i * step]) : 0u;
    return low | (i + 1 < left ? half_bits(line[(i + 1) * step]) << 16 : 0u);
}
FUNC uint4 fetch(DEVICE const half* line, index_t step, index_t left, bool fast) {
    if (fast && left >= 8) return *(DEVICE const uint4*)line;
    uint4 piece;
    piece.x = pair(line, step, left, 0);
    piece.y = pair(line, step, left, 2);
    piece.z = pair(line, step, left, 4);
    piece.w = pair(line, step, left, 6);
    return piece;
}
#define A_PIECES (TILE_M * TILE_K / 8 / THREADS)
#define B_PIECES (TILE_N * TILE_K / 8 / THREADS)
"""

_PIECE_OF_B = """\
            const int piece = int(THREAD) + q * THREADS;
            const int line = piece / ($b_width / 8), first = piece % ($b_width / 8) * 8;"""

_FETCH_B = f"""\
        UNROLL
        for (int q = 0; q < B_PIECES; q++) {{
{_PIECE_OF_B}
            const index_t left = $b_line < $b_line_end ? $b_first_end - ($b_first) : 0;
            const index_t at = ($b_line) * $b_line_step + ($b_first) * $b_step;
            next_b[q] = fetch($b + at, $b_step, left, b_fast);
        }}"""

_FETCH_BLOCKS = f"""\
        UNROLL
        for (int q = 0; q < B_PIECES; q++) {{
{_PIECE_OF_B}
            const index_t column = $b_line < N ? $b_line : N - 1;
            const index_t k = k0 + first < K ? k0 + first : K - 8;  // beyond it, A is zero
            const index_t at = column * b_n + index_t(uindex_t(k) / $block) * $nbytes;
            next_b[q] = fetched($b + at, int(uindex_t(k) % $block), b_fast);
        }}"""

# Decoded while matrices are multiplied, where a processor does that by itself.
_DECODE_BLOCKS = """\
    uint4 ready_b[B_PIECES];
    UNROLL
    for (int q = 0; q < B_PIECES; q++) {
        const int first = (int(THREAD) + q * THREADS) % ($b_width / 8) * 8;
        ready_b[q] = decoded(next_b[q], int(uindex_t(k0 + first) % $block));
    }
"""

# Each simdgroup's part of a stage; Hopper's warps have another way.
_MULTIPLY = """\
FUNC void multiply(
    PRIVATE TileC (&sums)[SIMD_M / 16][SIMD_N / 16], THREADGROUP const half* now_a,
    THREADGROUP const half* now_b, int simd_row, int simd_col) {
    UNROLL
    for (int k = 0; k < TILE_K; k += 16) {
        TileAB fragment_a[SIMD_M / 16];
        TileAB fragment_b[SIMD_N / 16];
        UNROLL
        for (int i = 0; i < SIMD_M / 16; i++) $load_a(fragment_a[i], now_a, $a_at);
        UNROLL
        for (int j = 0; j < SIMD_N / 16; j++) $load_b(fragment_b[j], now_b, $b_at);
        UNROLL
        for (int i = 0; i < SIMD_M / 16; i++) {
            UNROLL
            for (int j = 0; j < SIMD_N / 16; j++) {
                tile_multiply(sums[i][j], fragment_a[i], fragment_b[j]);
            }
        }
    }
}
"""

_MATRIX_LOOP = """\
THREADGROUP half* tile_a = (THREADGROUP half*)tiles;
THREADGROUP half* tile_b = tile_a + STAGES * TILE_M * TILE_K;
const bool a_fast = $a_fast;
${fast_b}const int simd_row = int(SIMDGROUP) / SIMDS_N * SIMD_M;
const int simd_col = int(SIMDGROUP) % SIMDS_N * SIMD_N;
TileC sums[SIMD_M / 16][SIMD_N / 16];
UNROLL
for (int i = 0; i < SIMD_M / 16; i++) {
    UNROLL
    for (int j = 0; j < SIMD_N / 16; j++) tile_clear(sums[i][j]);
}
uint4 next_a[A_PIECES];
$type_b next_b[B_PIECES];
int stage = 0;
for (index_t k0 = 0; k0 < K + TILE_K; k0 += TILE_K) {
    if (k0 < K) {
        UNROLL
        for (int q = 0; q < A_PIECES; q++) {
            const int piece = int(THREAD) + q * THREADS;
            const int line = piece / ($a_width / 8), first = piece % ($a_width / 8) * 8;
            const index_t left = $a_line < $a_line_end ? $a_first_end - ($a_first) : 0;
            const index_t at = ($a_line) * $a_line_step + ($a_first) * $a_step;
            next_a[q] = fetch($a + at, $a_step, left, a_fast);
        }
$fetch_b
    }
    if (k0 > 0) {
        THREADGROUP const half* now_a = tile_a + stage * TILE_M * TILE_K;
        THREADGROUP const half* now_b = tile_b + stage * TILE_N * TILE_K;
        MULTIPLY(sums, now_a, now_b, simd_row, simd_col);
        stage = STAGES - 1 - stage;
    }
$decode_b    if (k0 < K) {
        if (STAGES == 1) {
            WAIT_FOR_MATRICES(sums[0]);
            GROUP_BARRIER();
        }
        UNROLL
        for (int q = 0; q < A_PIECES; q++) {
            const int piece = int(THREAD) + q * THREADS;
            const int line = piece / ($a_width / 8), first = piece % ($a_width / 8) * 8;
            const int at = $place_a(line, first);
            *(THREADGROUP uint4*)(tile_a + stage * TILE_M * TILE_K + at) = next_a[q];
        }
        UNROLL
        for (int q = 0; q < B_PIECES; q++) {
$piece_of_b
            const int at = $place_b(line, first);
            *(THREADGROUP uint4*)(tile_b + stage * TILE_N * TILE_K + at) = $ready_b[q];
        }
        MATRIX_FENCE();
    }
    WAIT_FOR_MATRICES(sums[0]);
    GROUP_BARRIER();
}
THREADGROUP float* sum = (THREADGROUP float*)tiles + int(SIMDGROUP) * 16 * 32;
"""

_MATRIX_STORE = """\
tile_store(sums[i][j], sum, 32);
tile_store(sums[i][j + 1], sum + 16, 32);
SIMD_BARRIER();
"""

_MATRIX_ROW = "const index_t row = row0 + simd_row + 16 * i + e / 32;"
_MATRIX_COLUMN = "const index_t col = col0 + simd_col + 16 * j + e % 32;"

_STAGE_B = """\
    for (int e = int(THREAD); e < TILE_N * TILE_K; e += THREADS) {
        const index_t col = col0 + $b_line, k = k0 + $b_depth;
        const index_t at = col * b_n + k * b_k;
        tile_b[($b_depth) * (TILE_N + 4) + $b_line] = col < N && k < K ? $load_b : 0.0f;
    }"""

_PLAIN_LOOP = """\
float sums[4][4] = {};
for (index_t k0 = 0; k0 < K; k0 += TILE_K) {
    GROUP_BARRIER();
    for (int e = int(THREAD); e < TILE_M * TILE_K; e += THREADS) {
        const index_t row = row0 + $a_line, k = k0 + $a_depth;
        const index_t at = row * a_m + k * a_k;
        tile_a[($a_depth) * (TILE_M + 4) + $a_line] = row < M && k < K ? $load_a : 0.0f;
    }
$stage_b
    GROUP_BARRIER();
    UNROLL
    for (int k = 0; k < TILE_K; k++) {
        float x[4], y[4];
        UNROLL
        for (int i = 0; i < 4; i++) x[i] = tile_a[k * (TILE_M + 4) + int(THREAD) / 16 * 4 + i];
        UNROLL
        for (int j = 0; j < 4; j++) y[j] = tile_b[k * (TILE_N + 4) + int(THREAD) % 16 + 16 * j];
        UNROLL
        for (int i = 0; i < 4; i++) {
            UNROLL
            for (int j = 0; j < 4; j++) sums[i][j] = math_fma(x[i], y[j], sums[i][j]);
        }
    }
}
"""

_PLAIN_ROW = "const index_t row = row0 + int(THREAD) / 16 * 4 + i;"
_PLAIN_ACROSS = "col0 + int(THREAD) % 16 + 16 * j"

_READING = {
    "batch": "batch",
    "batches": "batches",
    "columns": "N",
    "columns_of": "",
    "fast_b": "const bool b_fast = $b_fast;\n",
    "start": "$b += batch * b_batch;",
    "piece_of_b": _PIECE_OF_B,
    "stage_b": _STAGE_B,
    "fetch_b": _FETCH_B,
    **gpu_windows.HALFS,
}
_READING_BLOCKS = {
    **_READING,
    "fetch_b": _FETCH_BLOCKS,
    "type_b": "Fetched",
    "decode_b": _DECODE_BLOCKS,
    "ready_b": "ready_b",
}
"""How texts read a b that is no window; what those of windows have is in `gpu_windows.py`."""
