"""What products over windows stage on a GPU: b is read where the windows lie, nothing is laid out.

A column is a position of the window in one of the images; the columns of all images follow each
other, so that small ones share a tile. Each thread stages one column of a tile of b, several k one
after the other: neighbouring threads have neighbouring positions, and one tap further is one stride
further in memory for all of them. Divisions happen before the loop over K alone.
"""

from __future__ import annotations

from string import Template

from tensorlogic.codegen.c_text import LOAD, STORE
from tensorlogic.kernels.spec import Matmul

OWN_NAMES = tuple(
    """part columns column image place across end walk taps walk_first far far_i far_j far_by depth
    bits words y_at x_at count1 count2 Walk Taps advance""".split()  # noqa: SIM905
)

WALK = """\
// Where a thread reads b: the element, the digits of k that are taps, the place within the borders.
struct Walk {
    index_t at;
    int i, j, y, x;
};
// Counts of taps; to the next line, to the next channel, from beyond the last tap; what a tap is in
// a place.
struct Taps {
    int i, j;
    index_t line, channel;
    int y, x;
};
// So many taps further, which are `by` elements; of each digit at most once around.
FUNC void advance(PRIVATE Walk& walk, Taps taps, int i, int j, index_t by) {
    walk.at += by;
    walk.i += i;
    walk.j += j;
    walk.y += i * taps.y;
    walk.x += j * taps.x;
    if (walk.j >= taps.j) {
        walk.j -= taps.j;
        walk.i += 1;
        walk.at += taps.line;
        walk.y += taps.y;
        walk.x -= taps.j * taps.x;
    }
    if (walk.i >= taps.i) {
        walk.i -= taps.i;
        walk.at += taps.channel;
        walk.y -= taps.i * taps.y;
    }
}
"""

START = """\
const index_t column = col0 + int(THREAD) % TILE_N;
const index_t end = column < columns ? K : 0;
const index_t image = column / N;
const int place = int(column % N);
const int y_at = place / int(n1), x_at = place % int(n1);
const int count1 = int(k1), count2 = int(k2);
const int walk_first = int(THREAD) / TILE_N * (TILE_N * TILE_K / THREADS);
Walk walk;
walk.j = walk_first % count2;
walk.i = walk_first / count2 % count1;
walk.at = $first + image * b_image + part * b_batch + y_at * b_n + x_at * b_n1
    + walk_first / count2 / count1 * b_k + walk.i * b_k1 + walk.j * b_k2;
walk.y = $y_first;
walk.x = $x_first;
const Taps taps = {
    count1, count2, b_k1 - count2 * b_k2, b_k - count1 * b_k1, $y_tap, $x_tap};
const int far = TILE_K - TILE_N * TILE_K / THREADS;
const int far_i = far / count2 % count1, far_j = far % count2;
const index_t far_by = far / count2 / count1 * b_k + far_i * b_k1 + far_j * b_k2;
"""

# Eight k of a column at a time, for matrix units.
PIECE = """\
            const int line = int(THREAD) % TILE_N, first = walk_first + 8 * q;"""

FETCH = """\
        const index_t left = end - k0 - walk_first;
        UNROLL
        for (int q = 0; q < B_PIECES; q++) {
            uint words[4];
            UNROLL
            for (int e = 0; e < 8; e++) {
                const uint bits = 8 * q + e < left ? $element : 0u;
                words[e / 2] = e % 2 ? words[e / 2] | bits << 16 : bits;
                advance(walk, taps, 0, 1, b_k2);
            }
            next_b[q].x = words[0];
            next_b[q].y = words[1];
            next_b[q].z = words[2];
            next_b[q].w = words[3];
        }
        advance(walk, taps, far_i, far_j, far_by);"""

# The same for products without them.
STAGE = """\
    UNROLL
    for (int q = 0; q < TILE_N * TILE_K / THREADS; q++) {
        const int depth = walk_first + q;
        tile_b[depth * (TILE_N + 4) + int(THREAD) % TILE_N] = k0 + depth < end ? $element : 0.0f;
        advance(walk, taps, 0, 1, b_k2);
    }
    advance(walk, taps, far_i, far_j, far_by);"""

COLUMN = """\
const index_t across = $across;
const index_t batch = across / N * groups + part;
const index_t col = across % N;
"""


HALFS = {"type_b": "uint4", "decode_b": "", "ready_b": "next_b"}
"""How halfs are kept on their way to a stage."""


def reading(spec: Matmul, b: str, fill: str | None, bits: bool) -> dict[str, str]:
    """What the texts of a product have of b: elements are read as `bits` of halfs, or as floats."""
    wrap = "half_bits({})" if bits else LOAD.get(spec.b_dtype, "{}")
    element = wrap.format(f"{b}[walk.at]")
    names = {"first": "0", "y_first": "0", "x_first": "0", "y_tap": "0", "x_tap": "0"}
    if fill is not None:
        border = wrap.format(STORE.get(spec.b_dtype, "{}").format(fill))
        inside = "uint(walk.y) < uint(y_end) && uint(walk.x) < uint(x_end)"
        element = f"({inside} ? {element} : {border})"
        names = {
            "first": "b_first",
            "y_first": "int(y_first) + y_at * int(y_place) + walk.i * int(y_tap)",
            "x_first": "int(x_first) + x_at * int(x_place) + walk.j * int(x_tap)",
            "y_tap": "int(y_tap)",
            "x_tap": "int(x_tap)",
        }
    return {
        "batch": "part",
        "batches": "groups",
        "columns": "columns",
        "columns_of": "const index_t columns = batches / groups * N;\n",
        "fast_b": "",
        "start": Template(START).substitute(names).rstrip(),
        "piece_of_b": PIECE,
        "fetch_b": Template(FETCH).substitute(element=element),
        "stage_b": Template(STAGE).substitute(element=element),
        **HALFS,
    }
