"""Matrix units as GPU text: what differs between Metal and CUDA in products."""

from __future__ import annotations

from string import Template

from tensorlogic.codegen.gpu_tiles import GpuTile


def matrices(dialect: str, tile: GpuTile, a_turned: bool, b_turned: bool) -> str:
    """Definitions for a product with such a tile. A is turned if its lines are along m in memory, B
    if they are not along k."""
    shares = (
        f"#define SIMDS_N {tile.simds_n}\n"
        f"#define SIMD_M {tile.m // tile.simds_m}\n#define SIMD_N {tile.n // tile.simds_n}\n"
    )
    places = Template(_PLACES).substitute(row="(line) / 2 % 4" if tile.k == 32 else "(line) % 8")
    if dialect == "metal":
        return shares + places + UNITS[dialect] + _METAL
    if tile.m != tile.threads // 2:  # four warps have 64 rows together
        return shares + places + UNITS[dialect] + _CUDA + _NARROW
    wide = "#define WIDE_MATRICES\n#define SIMDS_N 1\n#define SIMD_M 16\n#define SIMD_N TILE_N\n"
    return (
        f"#ifdef __CUDA_ARCH_FEAT_SM90_ALL\n{wide}#else\n{shares}#endif\n"
        f"{places}{UNITS[dialect]}{_CUDA}"
        f"#ifdef WIDE_MATRICES\n{_wide(tile, a_turned, b_turned)}#else\n{_NARROW}#endif\n"
    )


def _wide(tile: GpuTile, a_turned: bool, b_turned: bool) -> str:
    """Four warps multiply 64 x n sums by Hopper's wgmma, straight from a stage.

    An operand is described by its address, the bytes between its blocks along both axes and how
    its pieces of 16 bytes are moved about: within lines of 64 bytes (2) or 128 bytes (1), as
    `_PLACES` has them. https://docs.nvidia.com/cuda/parallel-thread-execution/ (wgmma, in the
    chapter on asynchronous warpgroup level matrix instructions)
    """
    count = tile.n // 2
    along = "16, 512, 2" if tile.k == 32 else "16, 1024, 1"
    across = "TILE_K * 128, 1024, 1"
    values = {
        "n": str(tile.n),
        "registers": ", ".join(f"%{i}" for i in range(count)),
        "outputs": ", ".join(f'"+f"(c[{i // 8}].part[{i % 8}])' for i in range(count)),
        "a": f"%{count}",
        "b": f"%{count + 1}",
        "turned": f"{int(a_turned)}, {int(b_turned)}",
        "a_blocks": across if a_turned else along,
        "b_blocks": across if b_turned else along,
        "a_step": "16 * 64" if a_turned else "16",
        "b_step": "16 * 64" if b_turned else "16",
    }
    return Template(_WIDE).substitute(values)


# Where a stage keeps a piece of eight halfs: in lines of TILE_K (32 or 64) along k, or of 64.
_PLACES = """\
#define ALONG(line, k) ((line) * TILE_K + MOVED((k) / 8, $row) * 8)
#define ACROSS(line, x) \\
    ((x) / 64 * (TILE_K * 64) + (line) * 64 + MOVED((x) / 8 % 8, (line) % 8) * 8)
"""

# Tiles of 16 x 16 numbers: what A and B are read into, and sums.
UNITS = {
    "metal": """\
struct TileAB { simdgroup_half8x8 part[4]; };
struct TileC { simdgroup_float8x8 part[4]; };
FUNC uint half_bits(half x) { return uint(as_type<ushort>(x)); }
FUNC uint halves(float low, float high) {
    return half_bits(half(low)) | half_bits(half(high)) << 16;
}
FUNC void tile_clear(thread TileC& c) {
    for (int i = 0; i < 4; i++) c.part[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
}
FUNC void tile_multiply(thread TileC& c, thread TileAB& a, thread TileAB& b) {
    for (int i = 0; i < 8; i++) {
        const int at = i / 2, k = i % 2;
        simdgroup_multiply_accumulate(
            c.part[at], a.part[at / 2 * 2 + k], b.part[k * 2 + at % 2], c.part[at]);
    }
}
FUNC void tile_store(thread TileC& c, threadgroup float* p, int line) {
    for (int i = 0; i < 4; i++) simdgroup_store(c.part[i], p + i / 2 * 8 * line + i % 2 * 8, line);
}
""",
    # The registers of PTX's m16n8k16 and ldmatrix; B's tile is loaded so that both halves follow.
    "cuda": """\
struct TileAB { uint part[4]; };
struct TileC { float part[8]; };
FUNC uint half_bits(half x) { return x.bits; }
FUNC uint halves(float low, float high) {
    uint pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
FUNC void tile_clear(TileC& c) {
    for (int i = 0; i < 8; i++) c.part[i] = 0.0f;
}
#define MATRIX_LOAD(t, turn, p) \\
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" turn ".shared.b16 {%0,%1,%2,%3}, [%4];" \\
                 : "=r"(t.part[0]), "=r"(t.part[1]), "=r"(t.part[2]), "=r"(t.part[3]) \\
                 : "r"((uint)__cvta_generic_to_shared(p)) : "memory")
FUNC void tile_multiply(TileC& c, const TileAB& a, const TileAB& b) {
    for (int h = 0; h < 2; h++)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                     "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c.part[4 * h]), "+f"(c.part[4 * h + 1]), "+f"(c.part[4 * h + 2]),
                       "+f"(c.part[4 * h + 3])
                     : "r"(a.part[0]), "r"(a.part[1]), "r"(a.part[2]), "r"(a.part[3]),
                       "r"(b.part[2 * h]), "r"(b.part[2 * h + 1]));
}
FUNC void tile_store(const TileC& c, float* p, int line) {
    const int row = int(LANE) / 4, column = int(LANE) % 4 * 2;
    for (int i = 0; i < 8; i++)
        p[(row + i / 2 % 2 * 8) * line + i / 4 * 8 + column + i % 2] = c.part[i];
}
""",
}

# A with lines along k and B with lines along n, or "turned" the other way round; the lines of the
# matrix in memory follow each other after `line` halfs.
LINES = {
    "metal": """\
#define LINE_LOAD(name, line_step, step, turned) \\
    FUNC void name(thread TileAB& t, threadgroup const half* p, int line) { \\
        for (int i = 0; i < 4; i++) \\
            simdgroup_load(t.part[i], p + line_step * 8 * line + step * 8, line, 0, turned); \\
    }
LINE_LOAD(tile_load_a, i / 2, i % 2, false)
LINE_LOAD(tile_load_b, i / 2, i % 2, false)
LINE_LOAD(tile_load_b_turned, i % 2, i / 2, true)
""",
    "cuda": """\
#define LINE_LOAD(name, turn, row, column) \\
    FUNC void name(TileAB& t, const half* p, int line) { \\
        const int lane = int(LANE); \\
        MATRIX_LOAD(t, turn, p + (row) * line + (column)); \\
    }
LINE_LOAD(tile_load_a, "", lane % 16, lane / 16 * 8)
LINE_LOAD(tile_load_b, ".trans", lane % 16, lane / 16 * 8)
LINE_LOAD(tile_load_b_turned, "", lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8)
""",
}

# The same from the stages of a product, at a line and a place in it.
_METAL = """\
#define MULTIPLY multiply
#define WAIT_FOR_MATRICES(sums)
#define MATRIX_FENCE()
#define MOVED(piece, line) (piece)
#define LOCAL_TILES LOCAL
#define TILE_LOAD(name, place, line_step, step, width, turned) \\
    FUNC void name(thread TileAB& t, threadgroup const half* p, int line, int x) { \\
        for (int i = 0; i < 4; i++) { \\
            const int at = place(line + (line_step) * 8, x + (step) * 8); \\
            simdgroup_load(t.part[i], p + at, width, 0, turned); \\
        } \\
    }
TILE_LOAD(tile_load_a, ALONG, i / 2, i % 2, TILE_K, false)
TILE_LOAD(tile_load_a_turned, ACROSS, i % 2, i / 2, 64, true)
TILE_LOAD(tile_load_b, ACROSS, i / 2, i % 2, 64, false)
TILE_LOAD(tile_load_b_turned, ALONG, i % 2, i / 2, TILE_K, true)
"""

_CUDA = """\
#undef KERNEL
#define KERNEL(name, threads) \\
    extern "C" __global__ void __launch_bounds__(threads, 512 / (threads)) name
#define MOVED(piece, line) ((piece) ^ (line))
#define LOCAL_TILES(T, name, count) __shared__ __align__(1024) T name[count]
#define TILE_LOAD(name, turn, place, line_step, step) \\
    FUNC void name(TileAB& t, const half* p, int line, int x) { \\
        const int lane = int(LANE); \\
        MATRIX_LOAD(t, turn, p + place(line + (line_step), x + (step))); \\
    }
TILE_LOAD(tile_load_a, "", ALONG, lane % 16, lane / 16 * 8)
TILE_LOAD(tile_load_a_turned, ".trans", ACROSS, lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8)
TILE_LOAD(tile_load_b, ".trans", ACROSS, lane % 16, lane / 16 * 8)
TILE_LOAD(tile_load_b_turned, "", ALONG, lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8)
"""

_NARROW = """\
#define MULTIPLY multiply
#define WAIT_FOR_MATRICES(sums)
#define MATRIX_FENCE()
"""

_WIDE = """\
#define MULTIPLY(sums, a, b, row, col) wide_multiply(sums[0], a, b)
FUNC unsigned long long operand(
    const half* p, uint along, uint across, unsigned long long moved) {
    const unsigned long long at = __cvta_generic_to_shared(p) & 0x3ffff;
    return at >> 4 | (unsigned long long)(along >> 4) << 16
        | (unsigned long long)(across >> 4) << 32 | moved << 62;
}
FUNC void wide_multiply(TileC (&c)[SIMD_N / 16], const half* a, const half* b) {
    a += int(SIMDGROUP) / 4 * (64 * TILE_K);
    const unsigned long long first_a = operand(a, $a_blocks), first_b = operand(b, $b_blocks);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    UNROLL
    for (int k = 0; k < TILE_K / 16; k++) {
        asm volatile("{\\n.reg .pred add;\\nsetp.ne.b32 add, 1, 0;\\n"
                     "wgmma.mma_async.sync.aligned.m64n${n}k16.f32.f16.f16 "
                     "{$registers}, $a, $b, add, 1, 1, $turned;\\n}"
                     : $outputs
                     : "l"(first_a + k * ($a_step / 8)), "l"(first_b + k * ($b_step / 8)));
    }
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
FUNC void WAIT_FOR_MATRICES(TileC (&c)[SIMD_N / 16]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    for (int j = 0; j < SIMD_N / 16; j++)
        for (int i = 0; i < 8; i++) asm volatile("" : "+f"(c[j].part[i]) :: "memory");
}
#define MATRIX_FENCE() asm volatile("fence.proxy.async.shared::cta;" ::: "memory")
"""
