"""The templates that attention on GPUs is printed from; see gpu_attention.py."""

from __future__ import annotations

OWN_NAMES = tuple(
    """acc batch head row col key part rows blocks unit row0 q_begin k_begin v_begin scale stop seen
    share first last q_rows sums scores tops totals top total own line lane_key sub s p r i j u d e
    n k0 at x w t step weight weights rescale old heads_of rows_of staged scales part_first p_high
    p_low own_high own_low end one_head most scaled n0 own_n left
    fragments fragment own_head own_row low high piece k_tile v_tile changed inside own_top
    own_total begin Eight LOWEST finite half_at load_key load_value stage DEPTH WIDTH ROWS SIMDS
    KEYS KEY_LANES COLUMN_LANES COLUMNS Q_LINE K_LINE V_LINE P_LINE TileC TileAB
    tile_scale k_fast v_fast from step left fast out""".split()  # noqa: SIM905
)

SHARED = """\
#define LOWEST as_float(0xff800000u)
FUNC float finite(float x) { return as_int(x) == int(0xff800000u) ? 0.0f : x; }
struct Eight { float x[8]; };
"""

PLACE = """\
const index_t rows = heads * queries;
const index_t blocks = (rows + ROWS - 1) / ROWS;
const index_t part = index_t(GROUP) % parts;
const index_t unit = index_t(GROUP) / parts;
const index_t batch = unit / blocks;
if (batch >= batches) return;
const index_t row0 = unit % blocks * ROWS;
"""

# The last key that any row of the group sees: rows of one head are in order.
LAST_CAUSAL = """\
const index_t end = row0 + ROWS < rows ? row0 + ROWS : rows;
const bool one_head = row0 / queries == (end - 1) / queries;
const index_t most = one_head ? stop - queries + (end - 1) % queries + 1 : stop;
const index_t seen = most < 0 ? 0 : most;
"""

ROWS_START = """\
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

ROWS_SCORES = """\
UNROLL_KEYS
for (int t = 0; t < KEY_LANES; t++) {
    const int lane_key = t * (32 / KEY_LANES) + int(LANE) / KEY_LANES;
    const int sub = int(LANE) % KEY_LANES;
    float s[ROWS];
    UNROLL
    for (int r = 0; r < ROWS; r++) s[r] = 0.0f;
    UNROLL_PIECES
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

ROWS_SCORE = "float s = LOWEST;"

ROWS_WEIGHT = """\
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

ROWS_SUMS = """\
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

ROWS_MERGE = """\
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
                    if (i == 0) sums[at] = 0.0f;
                    sums[at] += acc[r][p * 8 + u];
                }
            }
        }
    }
    GROUP_BARRIER();
}
"""

OF_ALL_SIMDS = """\
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

ROWS_ELEMENT = (
    """\
const int r = e / (COLUMNS * 8 * COLUMN_LANES);
const index_t col = e % (COLUMNS * 8 * COLUMN_LANES);
"""
    + OF_ALL_SIMDS
)

ROWS_ROW = "const int r = int(THREAD);\n" + OF_ALL_SIMDS

STAGE = """\
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

MATRIX_START = """\
const int K_LINE = DEPTH + 8;
const int V_LINE = WIDTH + 8;
const int P_LINE = KEYS + 8;
const index_t last = seen;
const bool k_fast = $k_fast;
const bool v_fast = $v_fast;
THREADGROUP half* k_tile = (THREADGROUP half*)staged;
THREADGROUP half* v_tile = k_tile + KEYS * K_LINE;
THREADGROUP float* own = scores + SIMDGROUP * $own;
THREADGROUP half* own_high = (THREADGROUP half*)own;
THREADGROUP half* own_low = own_high + 16 * P_LINE;
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

MATRIX_SCORES = """\
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

MATRIX_SUMS = """\
top = max_nan(top, lane_xor(top, 1));
const float scaled = math_exp(old - finite(top));
total *= scaled;
if (part_first == 0) rescale[line] = scaled;
SIMD_BARRIER();
int changed = as_int(scaled) != as_int(1.0f);
UNROLL
for (uint i = 16; i > 1; i >>= 1) changed |= lane_xor(changed, i);
if (changed != 0) {
    UNROLL
    for (int j = 0; j < WIDTH / 16; j++) tile_scale(sums[j], rescale, own, int(LANE));
}
UNROLL
for (int i = 0; i < KEYS / 2; i++) {
    const float w = math_exp(weights[i] - finite(top));
    const half high = half(w);
    total += w;
    own_high[line * P_LINE + part_first + i] = high;
    own_low[line * P_LINE + part_first + i] = half(w - float(high));
}
SIMD_BARRIER();
UNROLL
for (int i = 0; i < KEYS / 16; i++) {
    TileAB p_high, p_low;
    tile_load_a(p_high, own_high + 16 * i, P_LINE);
    tile_load_a(p_low, own_low + 16 * i, P_LINE);
    UNROLL
    for (int j = 0; j < WIDTH / 16; j++) {
        TileAB fragment;
        tile_load_b(fragment, v_tile + 16 * i * V_LINE + 16 * j, V_LINE);
        tile_multiply(sums[j], p_high, fragment);
        tile_multiply(sums[j], p_low, fragment);
    }
}
"""

MATRIX_FINISH = """\
total += lane_xor(total, 1);
SIMD_BARRIER();
if (part_first == 0) rescale[line] = total;
"""

MATRIX_ELEMENT = """\
const index_t n = n0 + e / 16;
const index_t own_head = n / queries;
const index_t own_row = n % queries;
const index_t col = 16 * j + e % 16;
const float total = rescale[e / 16];
"""

HALFS = {
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
SCALED = {
    "metal": """\
FUNC void tile_scale(
        thread TileC& c, threadgroup const float* by, threadgroup float* room, int lane) {
    tile_store(c, room, 16);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (int e = lane; e < 256; e += 32) room[e] *= by[e / 16];
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (int i = 0; i < 4; i++)
        simdgroup_load(c.part[i], room + i / 2 * 128 + i % 2 * 8, 16, 0, false);
    simdgroup_barrier(mem_flags::mem_threadgroup);
}
""",
    "cuda": """\
FUNC void tile_scale(TileC& c, const float* by, float* room, int lane) {
    for (int i = 0; i < 8; i++) c.part[i] *= by[lane / 4 + i / 2 % 2 * 8];
}
""",
}
