"""Making tensors: from data, from NumPy arrays, from bytes of a file, and filled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorlogic import gate
from tensorlogic.devices.base import resolve
from tensorlogic.dtypes import DTYPES, DType, as_dtype, float16, float32, int32
from tensorlogic.errors import DTypeError, ShapeError
from tensorlogic.graph import Shape, leaf
from tensorlogic.quants import QUANTS
from tensorlogic.storage import Memory, Strided, contiguous_strides
from tensorlogic.tensor import Tensor, wrap


def tensor(
    data: Any, dtype: Any = float16, device: str | None = None, on_overflow: str = "raise"
) -> Tensor:
    """A tensor with a copy of `data`: nested lists, a number, an array or anything with __array__.

    dtype: a dtype, its name or a NumPy dtype, float16 unless said otherwise. Raises RangeError for
    a value that float16 cannot hold (see `Tensor.to` for on_overflow), ShapeError for ragged lists.

    >>> import tensorlogic as tl
    >>> tl.tensor([[1, 2], [3, 4]])
    Tensor([[1., 2.],
     [3., 4.]], shape=[2, 2], dtype=float16, device=cpu)
    """
    gate.check_on_overflow(on_overflow)
    wanted = as_dtype(dtype)
    if isinstance(data, Tensor):
        data = data.numpy()
    array = _as_array(data)
    if on_overflow == "float32" and wanted is float16:
        wanted = float32 if gate.count_overflow(array)[0] else float16
    array = gate.convert_array(array, wanted, on_overflow)
    return _from_array(array.copy(), wanted, device)


def _as_array(data: Any) -> NDArray[Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.numpy()
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    try:
        array = np.asarray(plain(data) if isinstance(data, list | tuple) else data)
    except ValueError:
        raise ShapeError("tensor: nested lists of unequal length") from None
    if array.dtype == object:
        raise DTypeError("tensor: the data holds values that are not numbers")
    return array if array.size or array.dtype != np.float64 else array.astype(np.float32)


def _from_array(array: NDArray[Any], dtype: DType, device: str | None) -> Tensor:
    """A leaf over an array that is ours alone."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    memory, _ = Memory.of_array(array)
    memory.owned = True
    data = Strided(memory, dtype.name, 0, contiguous_strides(array.shape))
    return wrap(leaf(data, array.shape, dtype, resolve(device)))


def from_numpy(array: NDArray[Any], device: str | None = None) -> Tensor:
    """A tensor over the very memory of a NumPy array: no copy, later changes show.

    The dtype is the array's own; dtypes that do not compute are storage dtypes.

    >>> import numpy as np, tensorlogic as tl
    >>> tl.from_numpy(np.arange(3, dtype=np.float32)).dtype
    float32
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy takes a NumPy array, not {type(array).__name__}")
    dtype = as_dtype(array.dtype)
    size = array.itemsize
    aligned = array.__array_interface__["data"][0] % size == 0
    if not aligned or any(s % size for s in array.strides) or not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("=")).copy()
    if array.size == 0:
        return _from_array(array.copy(), dtype, device)
    memory, start = Memory.of_array(array)
    data = Strided(memory, dtype.name, start // size, tuple(s // size for s in array.strides))
    return wrap(leaf(data, array.shape, dtype, resolve(device)))


def from_storage(data: NDArray[np.uint8], shape: Shape, storage: str, name: str = "") -> Tensor:
    """A tensor over bytes that lie where they are, such as a part of a mapped file.

    data: exactly the tensor's bytes, 1-d; copied only if they are misaligned. storage: a dtype name
    or a quantized type; the dtype follows from it.
    """
    dtype = float16 if storage in QUANTS else DTYPES[storage]
    alignment = 2 if storage in QUANTS else dtype.itemsize
    if data.__array_interface__["data"][0] % alignment:
        data = data.copy()
    strides = None if storage in QUANTS else contiguous_strides(shape)
    memory = Memory(data, data, False)
    return wrap(leaf(Strided(memory, storage, 0, strides), shape, dtype, None, name))


def full(shape: Any, value: float, dtype: Any = float16, device: str | None = None) -> Tensor:
    """A tensor of one value.

    >>> import tensorlogic as tl
    >>> tl.full([2], 0.5).tolist()
    [0.5, 0.5]
    """
    sizes = sizes_of(shape)
    array = gate.convert_array(np.asarray(value), as_dtype(dtype))
    return _from_array(np.full(sizes, array), as_dtype(dtype), device)


def sizes_of(shape: Any) -> Shape:
    given = (shape,) if isinstance(shape, int | Tensor) else tuple(shape)
    sizes = tuple(d.__index__() if isinstance(d, Tensor) else d for d in given)
    for d in sizes:
        if isinstance(d, bool) or not isinstance(d, int | np.integer):
            raise TypeError(f"a shape is a sequence of ints, not {shape!r}")
        if d < 0:
            raise ShapeError(f"a size is negative in {list(sizes)}")
    return tuple(int(d) for d in sizes)


def zeros(shape: Any, dtype: Any = float16, device: str | None = None) -> Tensor:
    """A tensor of zeros.

    >>> import tensorlogic as tl
    >>> tl.zeros([2, 3]).shape
    (2, 3)
    """
    return full(shape, 0, dtype, device)


def ones(shape: Any, dtype: Any = float16, device: str | None = None) -> Tensor:
    """A tensor of ones."""
    return full(shape, 1, dtype, device)


def eye(n: int, dtype: Any = float16, device: str | None = None) -> Tensor:
    """The identity matrix of n rows."""
    return _from_array(np.eye(n, dtype=as_dtype(dtype).numpy), as_dtype(dtype), device)


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1,
    dtype: Any = None,
    device: str | None = None,
) -> Tensor:
    """Numbers from start (inclusive) to stop (exclusive); int32 if all three are ints.

    >>> import tensorlogic as tl
    >>> tl.arange(4).tolist(), tl.arange(0.0, 1.0, 0.5).dtype
    ([0, 1, 2, 3], float16)
    """
    if stop is None:
        start, stop = 0, start
    whole = all(isinstance(v, int) for v in (start, stop, step))
    wanted = as_dtype(dtype) if dtype is not None else (int32 if whole else float16)
    array = gate.convert_array(np.arange(start, stop, step), wanted)
    return _from_array(array.copy(), wanted, device)
