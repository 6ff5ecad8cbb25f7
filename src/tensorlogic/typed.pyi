"""Typed tensors for type checkers: dims as type variables.

`Tensor[float16, N, D]` with TypeVars or `Literal[3]` for dims lets mypy and pyright find shapes
that do not fit. A shape that cannot be expressed is `*tuple[Any, ...]`, which fits every other.
"""

from collections.abc import Sequence
from typing import Any, Protocol, overload
from typing import TypeVar as _TypeVar

from typing_extensions import TypeVarTuple

from tensorlogic.dtypes import bool_, float16, int32
from tensorlogic.rows import DT as DT
from tensorlogic.rows import Dims as Dims
from tensorlogic.rows import Rows
from tensorlogic.tensor import Tensor

B = TypeVarTuple("B")
N = _TypeVar("N")
M = _TypeVar("M")
K = _TypeVar("K")
H = _TypeVar("H")
G = _TypeVar("G")
S = _TypeVar("S")
E = _TypeVar("E")

class TypedTensor(Rows[DT, *Dims]):
    @overload
    def __matmul__(
        self: TypedTensor[DT, *B, N, K], other: Tensor[DT, K, M], /
    ) -> Tensor[DT, *B, N, M]: ...
    @overload
    def __matmul__(
        self: TypedTensor[DT, *B, N, K], other: Tensor[DT, *B, K, M], /
    ) -> Tensor[DT, *B, N, M]: ...
    @overload
    def __matmul__(self: TypedTensor[DT, K], other: Tensor[DT, K, M], /) -> Tensor[DT, M]: ...
    @overload
    def __matmul__(
        self: TypedTensor[DT, *B, N, K], other: Tensor[DT, K], /
    ) -> Tensor[DT, *B, N]: ...
    @overload
    def __matmul__(self: TypedTensor[DT, K], other: Tensor[DT, K], /) -> Tensor[DT, *tuple[()]]: ...
    def gelu(self, approximate: str = "none") -> Tensor[DT, *Dims]: ...
    def clip(self, low: Any = None, high: Any = None) -> Tensor[DT, *Dims]: ...
    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor[DT, *tuple[Any, ...]]: ...
    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor[DT, *tuple[Any, ...]]: ...
    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor[DT, *tuple[Any, ...]]: ...
    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor[DT, *tuple[Any, ...]]: ...
    def argmax(
        self, axis: int | None = None, keepdims: bool = False
    ) -> Tensor[int32, *tuple[Any, ...]]: ...
    def prod(self, axis: Any = None, keepdims: bool = False) -> Tensor[DT, *tuple[Any, ...]]: ...
    def var(
        self, axis: Any = None, keepdims: bool = False, correction: int = 0
    ) -> Tensor[DT, *tuple[Any, ...]]: ...
    def std(
        self, axis: Any = None, keepdims: bool = False, correction: int = 0
    ) -> Tensor[DT, *tuple[Any, ...]]: ...
    def any(self, axis: Any = None, keepdims: bool = False) -> Tensor[bool_, *tuple[Any, ...]]: ...
    def all(self, axis: Any = None, keepdims: bool = False) -> Tensor[bool_, *tuple[Any, ...]]: ...
    def logsumexp(
        self, axis: Any = None, keepdims: bool = False
    ) -> Tensor[DT, *tuple[Any, ...]]: ...
    def argmin(
        self, axis: int | None = None, keepdims: bool = False
    ) -> Tensor[int32, *tuple[Any, ...]]: ...
    def cumsum(self, axis: int | None = None) -> Tensor[DT, *tuple[Any, ...]]: ...
    def cumprod(self, axis: int | None = None) -> Tensor[DT, *tuple[Any, ...]]: ...
    def log_softmax(self, axis: int = -1) -> Tensor[DT, *Dims]: ...
    def group_norm(
        self,
        groups: int,
        weight: Tensor[Any, M] | None = None,
        bias: Tensor[Any, M] | None = None,
        eps: float = 1e-5,
    ) -> Tensor[DT, *Dims]: ...
    def batch_norm(
        self,
        mean: Tensor[Any, M],
        var: Tensor[Any, M],
        weight: Tensor[Any, M] | None = None,
        bias: Tensor[Any, M] | None = None,
        eps: float = 1e-5,
    ) -> Tensor[DT, *Dims]: ...
    def softmax(self, axis: int = -1) -> Tensor[DT, *Dims]: ...
    def layer_norm(
        self: TypedTensor[DT, *B, M],
        weight: Tensor[Any, M] | None = None,
        bias: Tensor[Any, M] | None = None,
        eps: float = 1e-5,
    ) -> Tensor[DT, *B, M]: ...
    def rms_norm(
        self: TypedTensor[DT, *B, M], weight: Tensor[Any, M] | None = None, eps: float = 1e-6
    ) -> Tensor[DT, *B, M]: ...
    def matmul(self, b: Tensor[Any, *tuple[Any, ...]]) -> Tensor[DT, *tuple[Any, ...]]: ...
    def linear(
        self: TypedTensor[DT, *B, K], weight: Tensor[DT, M, K], bias: Tensor[DT, M] | None = None
    ) -> Tensor[DT, *B, M]: ...
    def scaled_dot_product_attention(
        self: TypedTensor[DT, *B, H, N, K],
        k: Tensor[DT, *B, G, S, K],
        v: Tensor[DT, *B, G, S, E],
        mask: Tensor[Any, *tuple[Any, ...]] | None = None,
        causal: bool = False,
        scale: float | None = None,
        length: Any = None,
    ) -> Tensor[DT, *B, H, N, E]: ...
    def reshape(self, *shape: Any) -> Tensor[DT, *tuple[Any, ...]]: ...
    @overload
    def transpose(self: TypedTensor[DT, *B, N, M]) -> Tensor[DT, *B, M, N]: ...
    @overload
    def transpose(self, a: int = -2, b: int = -1) -> Tensor[DT, *tuple[Any, ...]]: ...
    def permute(self, *axes: Any) -> Tensor[DT, *tuple[Any, ...]]: ...
    def squeeze(self, axis: Any = None) -> Tensor[DT, *tuple[Any, ...]]: ...
    def unsqueeze(self, axis: int) -> Tensor[DT, *tuple[Any, ...]]: ...
    def expand(self, *shape: Any) -> Tensor[DT, *tuple[Any, ...]]: ...
    def split(self, parts: Any, axis: int = 0) -> tuple[Tensor[DT, *tuple[Any, ...]], ...]: ...
    def pad(self, widths: Any, value: Any = 0) -> Tensor[DT, *tuple[Any, ...]]: ...
    def take(self, indices: Any, axis: int = 0) -> Tensor[DT, *tuple[Any, ...]]: ...
    def max_pool1d(
        self,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Tensor[DT, *tuple[Any, ...]]: ...
    def max_pool2d(
        self,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Tensor[DT, *tuple[Any, ...]]: ...
    def avg_pool1d(
        self,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> Tensor[DT, *tuple[Any, ...]]: ...
    def avg_pool2d(
        self,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> Tensor[DT, *tuple[Any, ...]]: ...
    def interpolate(
        self,
        size: Any = None,
        scale: Any = None,
        mode: str = "nearest",
        align_corners: bool = False,
    ) -> Tensor[DT, *tuple[Any, ...]]: ...
    def window(
        self, axis: int, size: int, stride: int = 1, dilation: int = 1
    ) -> Tensor[DT, *tuple[Any, ...]]: ...
    def conv1d(
        self: TypedTensor[DT, N, H, K],
        weight: Tensor[Any, M, Any, Any],
        bias: Tensor[Any, M] | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor[DT, N, M, Any]: ...
    def conv2d(
        self: TypedTensor[DT, N, H, K, S],
        weight: Tensor[Any, M, Any, Any, Any],
        bias: Tensor[Any, M] | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor[DT, N, M, Any, Any]: ...
    def conv_transpose1d(
        self: TypedTensor[DT, N, H, K],
        weight: Tensor[Any, H, Any, Any],
        bias: Tensor[Any, *tuple[Any, ...]] | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor[DT, N, Any, Any]: ...
    def conv_transpose2d(
        self: TypedTensor[DT, N, H, K, S],
        weight: Tensor[Any, H, Any, Any, Any],
        bias: Tensor[Any, *tuple[Any, ...]] | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor[DT, N, Any, Any, Any]: ...
    def flatten(self, start: int = 0, end: int = -1) -> Tensor[DT, *tuple[Any, ...]]: ...
    def broadcast_to(self, shape: Any) -> Tensor[DT, *tuple[Any, ...]]: ...
    def flip(self, axis: Any = None) -> Tensor[DT, *Dims]: ...
    def roll(self, shift: Any, axis: Any) -> Tensor[DT, *Dims]: ...
    def repeat(self, count: int, axis: int) -> Tensor[DT, *tuple[Any, ...]]: ...
    def tile(self, counts: Any) -> Tensor[DT, *tuple[Any, ...]]: ...
    def tril(self, k: int = 0) -> Tensor[DT, *Dims]: ...
    def triu(self, k: int = 0) -> Tensor[DT, *Dims]: ...
    def diagonal(
        self, offset: int = 0, axis1: int = -2, axis2: int = -1
    ) -> Tensor[DT, *tuple[Any, ...]]: ...
    def gather(self, indices: Any, axis: int) -> Tensor[DT, *tuple[Any, ...]]: ...
    def scatter(
        self, indices: Any, values: Any, axis: int, reduce: str | None = None
    ) -> Tensor[DT, *Dims]: ...
    def argsort(self, axis: int = -1, descending: bool = False) -> Tensor[int32, *Dims]: ...
    def sort(self, axis: int = -1, descending: bool = False) -> Tensor[DT, *Dims]: ...
    def topk(
        self, k: int, axis: int = -1
    ) -> tuple[Tensor[DT, *tuple[Any, ...]], Tensor[int32, *tuple[Any, ...]]]: ...
    def unique_consecutive(
        self, return_inverse: bool = False, return_counts: bool = False
    ) -> Any: ...
    def rope(
        self, positions: Any = 0, base: float = 10000.0, layout: str = "halves"
    ) -> Tensor[DT, *Dims]: ...

class _Matmul(Protocol):
    @overload
    def __call__(self, a: Tensor[DT, *B, N, K], b: Tensor[DT, K, M]) -> Tensor[DT, *B, N, M]: ...
    @overload
    def __call__(
        self, a: Tensor[DT, *B, N, K], b: Tensor[DT, *B, K, M]
    ) -> Tensor[DT, *B, N, M]: ...
    @overload
    def __call__(self, a: Tensor[DT, K], b: Tensor[DT, K, M]) -> Tensor[DT, M]: ...
    @overload
    def __call__(self, a: Tensor[DT, *B, N, K], b: Tensor[DT, K]) -> Tensor[DT, *B, N]: ...
    @overload
    def __call__(self, a: Tensor[DT, K], b: Tensor[DT, K]) -> Tensor[DT, *tuple[()]]: ...

matmul: _Matmul

def eval(*tensors: Tensor[Any, *tuple[Any, ...]]) -> None: ...
def gelu(x: Tensor[DT, *Dims], approximate: str = "none") -> Tensor[DT, *Dims]: ...
def clip(x: Tensor[DT, *Dims], low: Any = None, high: Any = None) -> Tensor[DT, *Dims]: ...
def sum(
    x: Tensor[DT, *Dims], axis: Any = None, keepdims: bool = False
) -> Tensor[DT, *tuple[Any, ...]]: ...
def mean(
    x: Tensor[DT, *Dims], axis: Any = None, keepdims: bool = False
) -> Tensor[DT, *tuple[Any, ...]]: ...
def max(
    x: Tensor[DT, *Dims], axis: Any = None, keepdims: bool = False
) -> Tensor[DT, *tuple[Any, ...]]: ...
def min(
    x: Tensor[DT, *Dims], axis: Any = None, keepdims: bool = False
) -> Tensor[DT, *tuple[Any, ...]]: ...
def argmax(
    x: Tensor[DT, *Dims], axis: int | None = None, keepdims: bool = False
) -> Tensor[int32, *tuple[Any, ...]]: ...
def prod(
    x: Tensor[DT, *Dims], axis: Any = None, keepdims: bool = False
) -> Tensor[DT, *tuple[Any, ...]]: ...
def var(
    x: Tensor[DT, *Dims], axis: Any = None, keepdims: bool = False, correction: int = 0
) -> Tensor[DT, *tuple[Any, ...]]: ...
def std(
    x: Tensor[DT, *Dims], axis: Any = None, keepdims: bool = False, correction: int = 0
) -> Tensor[DT, *tuple[Any, ...]]: ...
def any(
    x: Tensor[DT, *Dims], axis: Any = None, keepdims: bool = False
) -> Tensor[bool_, *tuple[Any, ...]]: ...
def all(
    x: Tensor[DT, *Dims], axis: Any = None, keepdims: bool = False
) -> Tensor[bool_, *tuple[Any, ...]]: ...
def logsumexp(
    x: Tensor[DT, *Dims], axis: Any = None, keepdims: bool = False
) -> Tensor[DT, *tuple[Any, ...]]: ...
def argmin(
    x: Tensor[DT, *Dims], axis: int | None = None, keepdims: bool = False
) -> Tensor[int32, *tuple[Any, ...]]: ...
def cumsum(x: Tensor[DT, *Dims], axis: int | None = None) -> Tensor[DT, *tuple[Any, ...]]: ...
def cumprod(x: Tensor[DT, *Dims], axis: int | None = None) -> Tensor[DT, *tuple[Any, ...]]: ...
def log_softmax(x: Tensor[DT, *Dims], axis: int = -1) -> Tensor[DT, *Dims]: ...
def group_norm(
    x: Tensor[DT, *Dims],
    groups: int,
    weight: Tensor[Any, M] | None = None,
    bias: Tensor[Any, M] | None = None,
    eps: float = 1e-5,
) -> Tensor[DT, *Dims]: ...
def batch_norm(
    x: Tensor[DT, *Dims],
    mean: Tensor[Any, M],
    var: Tensor[Any, M],
    weight: Tensor[Any, M] | None = None,
    bias: Tensor[Any, M] | None = None,
    eps: float = 1e-5,
) -> Tensor[DT, *Dims]: ...
def cross_entropy(
    logits: Tensor[DT, N, M], targets: Tensor[int32, N], reduction: str = "mean"
) -> Tensor[DT, *tuple[Any, ...]]: ...
def mse(
    a: Tensor[DT, *Dims], b: Tensor[DT, *Dims], reduction: str = "mean"
) -> Tensor[DT, *tuple[Any, ...]]: ...
def softmax(x: Tensor[DT, *Dims], axis: int = -1) -> Tensor[DT, *Dims]: ...
def layer_norm(
    x: Tensor[DT, *B, M],
    weight: Tensor[Any, M] | None = None,
    bias: Tensor[Any, M] | None = None,
    eps: float = 1e-5,
) -> Tensor[DT, *B, M]: ...
def rms_norm(
    x: Tensor[DT, *B, M], weight: Tensor[Any, M] | None = None, eps: float = 1e-6
) -> Tensor[DT, *B, M]: ...
def linear(
    x: Tensor[DT, *B, K], weight: Tensor[DT, M, K], bias: Tensor[DT, M] | None = None
) -> Tensor[DT, *B, M]: ...
def embedding(indices: Tensor[int32, *B], weight: Tensor[DT, N, M]) -> Tensor[DT, *B, M]: ...
def scaled_dot_product_attention(
    q: Tensor[DT, *B, H, N, K],
    k: Tensor[DT, *B, G, S, K],
    v: Tensor[DT, *B, G, S, E],
    mask: Tensor[Any, *tuple[Any, ...]] | None = None,
    causal: bool = False,
    scale: float | None = None,
    length: Any = None,
) -> Tensor[DT, *B, H, N, E]: ...
def reshape(x: Tensor[DT, *Dims], *shape: Any) -> Tensor[DT, *tuple[Any, ...]]: ...
@overload
def transpose(x: Tensor[DT, *B, N, M]) -> Tensor[DT, *B, M, N]: ...
@overload
def transpose(x: Tensor[DT, *Dims], a: int = -2, b: int = -1) -> Tensor[DT, *tuple[Any, ...]]: ...
def permute(x: Tensor[DT, *Dims], *axes: Any) -> Tensor[DT, *tuple[Any, ...]]: ...
def squeeze(x: Tensor[DT, *Dims], axis: Any = None) -> Tensor[DT, *tuple[Any, ...]]: ...
def unsqueeze(x: Tensor[DT, *Dims], axis: int) -> Tensor[DT, *tuple[Any, ...]]: ...
def expand(x: Tensor[DT, *Dims], *shape: Any) -> Tensor[DT, *tuple[Any, ...]]: ...
def split(
    x: Tensor[DT, *Dims], parts: Any, axis: int = 0
) -> tuple[Tensor[DT, *tuple[Any, ...]], ...]: ...
def pad(x: Tensor[DT, *Dims], widths: Any, value: Any = 0) -> Tensor[DT, *tuple[Any, ...]]: ...
def take(x: Tensor[DT, *Dims], indices: Any, axis: int = 0) -> Tensor[DT, *tuple[Any, ...]]: ...
def flatten(
    x: Tensor[DT, *Dims], start: int = 0, end: int = -1
) -> Tensor[DT, *tuple[Any, ...]]: ...
def broadcast_to(x: Tensor[DT, *Dims], shape: Any) -> Tensor[DT, *tuple[Any, ...]]: ...
def flip(x: Tensor[DT, *Dims], axis: Any = None) -> Tensor[DT, *Dims]: ...
def roll(x: Tensor[DT, *Dims], shift: Any, axis: Any) -> Tensor[DT, *Dims]: ...
def repeat(x: Tensor[DT, *Dims], count: int, axis: int) -> Tensor[DT, *tuple[Any, ...]]: ...
def tile(x: Tensor[DT, *Dims], counts: Any) -> Tensor[DT, *tuple[Any, ...]]: ...
def tril(x: Tensor[DT, *Dims], k: int = 0) -> Tensor[DT, *Dims]: ...
def triu(x: Tensor[DT, *Dims], k: int = 0) -> Tensor[DT, *Dims]: ...
def diagonal(
    x: Tensor[DT, *Dims], offset: int = 0, axis1: int = -2, axis2: int = -1
) -> Tensor[DT, *tuple[Any, ...]]: ...
def gather(x: Tensor[DT, *Dims], indices: Any, axis: int) -> Tensor[DT, *tuple[Any, ...]]: ...
def scatter(
    x: Tensor[DT, *Dims], indices: Any, values: Any, axis: int, reduce: str | None = None
) -> Tensor[DT, *Dims]: ...
def argsort(
    x: Tensor[DT, *Dims], axis: int = -1, descending: bool = False
) -> Tensor[int32, *Dims]: ...
def sort(x: Tensor[DT, *Dims], axis: int = -1, descending: bool = False) -> Tensor[DT, *Dims]: ...
def topk(
    x: Tensor[DT, *Dims], k: int, axis: int = -1
) -> tuple[Tensor[DT, *tuple[Any, ...]], Tensor[int32, *tuple[Any, ...]]]: ...
def unique_consecutive(
    x: Tensor[DT, *Dims], return_inverse: bool = False, return_counts: bool = False
) -> Any: ...
def rope(
    x: Tensor[DT, *Dims], positions: Any = 0, base: float = 10000.0, layout: str = "halves"
) -> Tensor[DT, *Dims]: ...
def one_hot(
    indices: Tensor[int32, *B], classes: int, dtype: Any = float16
) -> Tensor[Any, *tuple[Any, ...]]: ...
def einsum(
    pattern: str, *tensors: Tensor[Any, *tuple[Any, ...]]
) -> Tensor[Any, *tuple[Any, ...]]: ...
def concat(
    tensors: Sequence[Tensor[DT, *tuple[Any, ...]]], axis: int = 0
) -> Tensor[DT, *tuple[Any, ...]]: ...
def stack(
    tensors: Sequence[Tensor[DT, *tuple[Any, ...]]], axis: int = 0
) -> Tensor[DT, *tuple[Any, ...]]: ...
def max_pool1d(
    x: Tensor[DT, *Dims],
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Tensor[DT, *tuple[Any, ...]]: ...
def max_pool2d(
    x: Tensor[DT, *Dims],
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Tensor[DT, *tuple[Any, ...]]: ...
def avg_pool1d(
    x: Tensor[DT, *Dims],
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor[DT, *tuple[Any, ...]]: ...
def avg_pool2d(
    x: Tensor[DT, *Dims],
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor[DT, *tuple[Any, ...]]: ...
def interpolate(
    x: Tensor[DT, *Dims],
    size: Any = None,
    scale: Any = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Tensor[DT, *tuple[Any, ...]]: ...
def window(
    x: Tensor[DT, *Dims], axis: int, size: int, stride: int = 1, dilation: int = 1
) -> Tensor[DT, *tuple[Any, ...]]: ...
def conv1d(
    x: Tensor[DT, N, H, K],
    weight: Tensor[Any, M, Any, Any],
    bias: Tensor[Any, M] | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor[DT, N, M, Any]: ...
def conv2d(
    x: Tensor[DT, N, H, K, S],
    weight: Tensor[Any, M, Any, Any, Any],
    bias: Tensor[Any, M] | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor[DT, N, M, Any, Any]: ...
def conv_transpose1d(
    x: Tensor[DT, N, H, K],
    weight: Tensor[Any, H, Any, Any],
    bias: Tensor[Any, *tuple[Any, ...]] | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor[DT, N, Any, Any]: ...
def conv_transpose2d(
    x: Tensor[DT, N, H, K, S],
    weight: Tensor[Any, H, Any, Any, Any],
    bias: Tensor[Any, *tuple[Any, ...]] | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor[DT, N, Any, Any, Any]: ...
