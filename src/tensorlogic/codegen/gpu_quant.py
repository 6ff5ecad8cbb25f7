"""Matrix-vector products straight from quantized blocks as GPU text: one body for both dialects.

The IR's own fold over the digits of Q4_0 loads byte by byte. Here two lanes share a block: each
loads eight bytes of digits as four 16-bit words and multiplies them, where they stand in the word,
by elements of x that are scaled down to match; x is read once for several rows. The 8 that Q4_0
subtracts from each digit is taken from the block's sum: sum (d - 8) x = sum d x - 8 sum x.
"""

from __future__ import annotations

from collections.abc import Mapping

from tensorlogic.codegen.c_text import LOAD, MEMORY, KernelText
from tensorlogic.codegen.dialects import assemble
from tensorlogic.kernels.check import KernelError
from tensorlogic.kernels.spec import BlockMatvec

GROUP = 128
"""Threads of a group: four simdgroups with rows of their own."""
ROWS = 2
"""Rows that a simdgroup works on."""


def matvec_grid(sizes: Mapping[str, float], rows: int = ROWS) -> int:
    """Threads of a launch, a multiple of GROUP; `sizes` has rows."""
    each = GROUP // 32 * rows
    return -(-int(sizes["rows"]) // each) * GROUP


def render(
    spec: BlockMatvec, name: str, dialect: str, rows: int = ROWS, *, index: str = "i64"
) -> str:
    """The whole text in a dialect. Arguments as `BlockMatvec` has them; the parameter words are
    packed by `clike.pack_params(spec.all_params, ...)`."""
    more = f"#define ROWS {rows}\n" + _DIGITS[dialect]
    return assemble(dialect, body(spec, name), index, more)


def body(spec: BlockMatvec, name: str) -> str:
    """The text below the prelude, the same in both dialects."""
    if spec.quant != "q4_0":
        raise KernelError(f"no matrix-vector text for {spec.quant}")
    text = KernelText(spec.all_buffers, spec.all_params, _OWN_NAMES)
    w, x = text.buffers[:2]
    text.lines(
        _Q4_0,
        w=text.c_names[w],
        x=text.c_names[x],
        x_offset=text.offset(x),
        T=MEMORY[spec.x_dtype],
        low=LOAD.get(spec.x_dtype, "{}").format("low_pack[u]"),
        high=LOAD.get(spec.x_dtype, "{}").format("high_pack[u]"),
    )
    with text.block("UNROLL\nfor (int r = 0; r < ROWS; r++)"):
        text.lines(_MERGE)
        with text.block("if (LANE == 0 && row < rows)"):
            text.epilogue(spec.stores, "sums[r]")
    return text.text(name, GROUP)


_OWN_NAMES = tuple(
    """row0 row part fast block low high low_pack high_pack total sums r i u d v p acc from digits
    half_block ROWS masked_float""".split()  # noqa: SIM905
)

_Q4_0 = """\
const index_t row0 = (index_t(GROUP) * 4 + SIMDGROUP) * ROWS;
if (row0 >= rows) return;
const int half_block = int(LANE & 1);
const bool fast = ($x_offset & 3) == 0;
float sums[ROWS];
UNROLL
for (int r = 0; r < ROWS; r++) sums[r] = 0.0f;
for (index_t block = LANE / 2; block < blocks; block += 16) {
    float low[8], high[8], total = 0.0f;
    UNROLL
    for (int i = 0; i < 8; i += 4) {
        DEVICE const $T* from = $x + (block * 32 + half_block * 8 + i);
        const PACK($T) low_pack = load_pack(from, 4, fast);
        const PACK($T) high_pack = load_pack(from + 16, 4, fast);
        UNROLL
        for (int u = 0; u < 4; u++) {
            low[i + u] = $low;
            high[i + u] = $high;
            total += low[i + u] + high[i + u];
        }
    }
    UNROLL
    for (int i = 0; i < 8; i += 2) {
        high[i] *= 1.0f / 16;
        low[i + 1] *= 1.0f / 256;
        high[i + 1] *= 1.0f / 4096;
    }
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        const index_t row = row0 + r < rows ? row0 + r : row0;
        DEVICE const uchar* p = $w + (row * blocks + block) * 18;
        DEVICE const ushort* digits = (DEVICE const ushort*)(p + 2 + half_block * 8);
        float part = -8.0f * total;
        UNROLL
        for (int i = 0; i < 4; i++) {
            const uint v = digits[i];
            part = math_fma(masked_float(v, 0x000fu), low[2 * i], part);
            part = math_fma(masked_float(v, 0x00f0u), high[2 * i], part);
            part = math_fma(masked_float(v, 0x0f00u), low[2 * i + 1], part);
            part = math_fma(masked_float(v, 0xf000u), high[2 * i + 1], part);
        }
        sums[r] = math_fma(float(*(DEVICE const half*)p), part, sums[r]);
    }
}
"""

_MERGE = """\
const index_t row = row0 + r;
UNROLL
for (uint d = 16; d > 0; d >>= 1) sums[r] += lane_xor(sums[r], d);
"""

# On NVIDIA GPUs conversions run at a quarter of the rate of the two operations used here: bits
# below 2**23 become a float in [2**23, 2**24), which the subtraction makes exact.
_DIGITS = {
    "metal": """\
FUNC float masked_float(uint v, uint mask) { return float(v & mask); }
""",
    "cuda": """\
FUNC float masked_float(uint v, uint mask) {
    return as_float((v & mask) | 0x4b000000u) - 8388608.0f;
}
""",
}
