"""The families of kernels that are more than IR: what they are, before a printer builds them."""

from __future__ import annotations

from dataclasses import dataclass

from tensorlogic.kernels.ir import (
    MEMORY_TYPES,
    Buffer,
    Check,
    Expr,
    Kernel,
    Stmt,
    Store,
    expr_text,
    index,
    kernel_text,
    param,
    var,
)

ACC = var("acc", "f32")
"""The finished sum of one element of the product, in the expressions of an epilogue."""
BATCH, ROW, COL = index("batch"), index("row"), index("col")
"""Where that element stands; expressions find them by name."""

M, N, K, BATCHES = param("M"), param("N"), param("K"), param("batches")
STRIDES = tuple(param(n) for n in ("a_batch", "a_m", "a_k", "b_batch", "b_k", "b_n"))
MATMUL_PARAMS = (M, N, K, BATCHES, *STRIDES)
"""The first parameters of each matmul kernel, all i64; strides count elements."""
WINDOW_PARAMS = tuple(
    param(n) for n in ("k1", "k2", "b_k1", "b_k2", "n1", "b_n1", "groups", "b_image")
)
"""The next ones of a product over windows, all i64."""
PAD_PARAMS = (
    *(param(f"{axis}_{n}") for axis in "yx" for n in ("tap", "place", "first", "end")),
    param("b_first"),
)
"""The next ones where the windows reach beyond what is stored, all i64."""


@dataclass(frozen=True, eq=False)
class Matmul:
    """acc[batch, row, col] = sum over k of a[batch, row, k] * b[batch, k, col], in float32.

    `a_dtype` and `b_dtype` are f16, bf16 or f32; `b_dtype` may also be the name of a row of
    `quants`: then b is read as blocks along k. Its buffer is u8, `b_contiguous` is "k", K a
    multiple of the block, `b_n` and `b_batch` are the bytes from one row of blocks (one batch) to
    the next, and `b_k` is 0. Only devices that say so (`Traits.block_operands`) get such products.
    Unless it is `exact`, such a product may round a to 16 bits in blocks of it. `interleaved`: b
    lies in lines of sixteen rows (llvm_interleaved.py), in each batch from a whole group of them
    on.

    `a_contiguous` ("k", "m" or None) and
    `b_contiguous` ("k", "n" or None) say which stride is known to be 1. For each element of the
    product (0 <= row < M, 0 <= col < N, 0 <= batch < batches) the `stores` run, with acc, batch,
    row and col in scope. `buffers` are those that the stores load from or write, `params` those
    that they name beyond MATMUL_PARAMS.

    With `windows`, as of a convolution, k counts channels and taps and a column the positions of
    the window: where k = (channel * k1 + i) * k2 + j and col = y * n1 + x, b[k, col] is the element
    channel * b_k + i * b_k1 + j * b_k2 + y * b_n + x * b_n1 of its batch. A batch is one of the
    `groups` of an image, which share a: batch = image * groups + group begins at
    image * b_image + group * b_batch in b and at group * a_batch in a.

    With `fill`, one of the `params` (f32), b is padded: where y_first + i * y_tap + y * y_place is
    not in 0..y_end, or the same of j and x not in 0..x_end, b[k, col] is the fill, and nothing is
    read; the first image begins at element b_first of b, which may be negative. Only devices that
    say so (`Traits.borders`) get such products.

    A kernel's arguments are the buffers a, b, *buffers and the parameters MATMUL_PARAMS, with
    `windows` WINDOW_PARAMS, with `fill` PAD_PARAMS, and *params.
    """

    a_dtype: str
    b_dtype: str
    a_contiguous: str | None
    b_contiguous: str | None
    stores: tuple[Store, ...]
    buffers: tuple[Buffer, ...]
    params: tuple[Expr, ...] = ()
    exact: bool = False
    interleaved: bool = False
    windows: bool = False
    fill: Expr | None = None

    @property
    def quantized(self) -> bool:
        return self.b_dtype not in MEMORY_TYPES

    @property
    def all_buffers(self) -> tuple[Buffer, ...]:
        b = "u8" if self.quantized else self.b_dtype
        return (Buffer("a", self.a_dtype), Buffer("b", b), *self.buffers)

    @property
    def all_params(self) -> tuple[Expr, ...]:
        windows = WINDOW_PARAMS if self.windows else ()
        pads = PAD_PARAMS if self.fill is not None else ()
        return (*MATMUL_PARAMS, *windows, *pads, *self.params)


def matmul_text(spec: Matmul) -> str:
    """The product as text; equal text means the same kernel."""
    a, b = spec.a_contiguous or "strided", spec.b_contiguous or "strided"
    exact = "exact " if spec.exact else ""
    lines = "interleaved " if spec.interleaved else ""
    blocks = f" in {exact}{lines}blocks of {spec.b_dtype}" if spec.quantized else ""
    kind = "windows of b" if spec.windows else f"b along {b}{blocks}"
    if spec.fill is not None:
        kind += f" in a border of {expr_text(spec.fill)}"
    head = f"product of a along {a} and {kind}: acc for each batch, row, col\n"
    return head + kernel_text(Kernel(spec.all_buffers, spec.all_params, spec.stores))


@dataclass(frozen=True, eq=False)
class BlockMatvec:
    """acc[row] = sum over k of w[row, k] * x[k], in float32, from the blocks of a quantized type.

    `quant` is "q4_0". `w` has u8 elements: rows of `blocks` blocks, one after the other, from an
    even address on; `x` is contiguous, f16 or f32. For each row (0 <= row < rows) the `stores`
    run, with acc and row in scope; `buffers` and `params` are as for a `Matmul`.

    A kernel's arguments are the buffers w, x, *buffers and the parameters rows, blocks, *params.
    """

    quant: str
    x_dtype: str
    stores: tuple[Store, ...]
    buffers: tuple[Buffer, ...]
    params: tuple[Expr, ...] = ()

    @property
    def all_buffers(self) -> tuple[Buffer, ...]:
        return (Buffer("w", "u8"), Buffer("x", self.x_dtype), *self.buffers)

    @property
    def all_params(self) -> tuple[Expr, ...]:
        return (param("rows"), param("blocks"), *self.params)


HEAD, KEY, PART = index("head"), index("key"), index("part")
"""Of attention: the head within its group, the key, the part of the keys."""
TOP, TOTAL = var("top", "f32"), var("total", "f32")
"""Of one row of one part: the largest score, and the sum of exp(score - top)."""
HEADS, QUERIES, KEYS, PARTS = (param(n) for n in ("heads", "queries", "keys", "parts"))
ATTENTION_STRIDES = tuple(
    param(n) for n in ("q_head", "q_row", "q_depth", "k_row", "k_depth", "v_row", "v_col")
)
ATTENTION_PARAMS = (BATCHES, HEADS, QUERIES, KEYS, PARTS, *ATTENTION_STRIDES)
"""The first parameters of each attention kernel, all i64; strides count elements."""


@dataclass(frozen=True, eq=False)
class Attention:
    """acc[batch, head, row, col] = sum over keys of w[key] * v[batch, key, col], in float32.

    A batch is one group of heads of one batch entry: its `heads` share keys and values. Row `row`
    of `queries` has score[key] = scale * (q . k[key]), plus `mask` if that is f32, -inf where it is
    a bool and false; key < `stop`, and with `causal` key <= stop - queries + row. Then w[key] =
    exp(score[key] - the largest score) / the sum of these, or 0 where no key has a score above
    -inf. Scores are never stored.

    `depth` and `width` are the extents of q and k, and of v; `q_at`, `k_at` and `v_at` say at which
    element a batch begins. `contiguous` tells whether k_depth and v_col are known to be 1. `scale`
    (f32) and `stop` (i64, at most keys) are uniform; `mask` is in terms of batch, head, row, key.
    The `stores` run for each element of the result, the `checks` at least once.

    With `split`, the keys below `stop` are cut into `parts`, each with its own results: acc is the
    sum of exp(score - top) * v, and `row_stores` run once for each row, with top and total.

    `few` is how many heads there are if they are few with one query each, which share each key that
    is read; else 0.
    A kernel's arguments are the buffers q, k, v, *buffers and ATTENTION_PARAMS, *params.
    """

    dtypes: tuple[str, str, str]
    depth: int
    width: int
    contiguous: bool
    q_at: Expr
    k_at: Expr
    v_at: Expr
    scale: Expr
    stop: Expr
    causal: bool
    mask: Expr | None
    stores: tuple[Store, ...]
    checks: tuple[Check, ...]
    buffers: tuple[Buffer, ...]
    params: tuple[Expr, ...] = ()
    few: int = 0
    split: bool = False
    row_stores: tuple[Store, ...] = ()

    @property
    def all_buffers(self) -> tuple[Buffer, ...]:
        named = zip("qkv", self.dtypes, strict=True)
        return (*(Buffer(name, dtype) for name, dtype in named), *self.buffers)

    @property
    def all_params(self) -> tuple[Expr, ...]:
        return (*ATTENTION_PARAMS, *self.params)


def attention_text(spec: Attention) -> str:
    """The attention as text; equal text means the same kernel."""
    seen = "causal " if spec.causal else ""
    rows = f"{spec.few} rows" if spec.few else "rows"
    layout = "contiguous" if spec.contiguous else "strided"
    head = f"{seen}attention of {rows} over {layout} keys of {spec.depth}, values of {spec.width}"
    values = {"q": spec.q_at, "k": spec.k_at, "v": spec.v_at, "scale": spec.scale}
    values |= {"stop": spec.stop, **({} if spec.mask is None else {"mask": spec.mask})}
    lines = [head + (" in parts" if spec.split else "")]
    lines += [f"  {name}: {expr_text(e)}" for name, e in values.items()]
    body: tuple[Stmt, ...] = (*spec.checks, *spec.stores, *spec.row_stores)
    return "\n".join(lines) + "\n" + kernel_text(Kernel(spec.all_buffers, spec.all_params, body))


def text_of(kernel: Kernel | Matmul | Attention) -> str:
    """A kernel of any family as text; equal text means the same kernel."""
    if isinstance(kernel, Matmul):
        return matmul_text(kernel)
    return attention_text(kernel) if isinstance(kernel, Attention) else kernel_text(kernel)
