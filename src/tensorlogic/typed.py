"""What makes `Tensor[float16, N, D]` an annotation; its stub tells type checkers of dims."""

from __future__ import annotations

from typing import Any, TypeVar, TypeVarTuple

DT = TypeVar("DT")
Dims = TypeVarTuple("Dims")


class TypedTensor:
    """The base of `Tensor`; with brackets `Tensor` is a `TensorType` that binds at a call."""

    __slots__ = ()

    def __class_getitem__(cls, item: Any) -> Any:
        if cls is TypedTensor:  # as the base class of Tensor
            return cls
        from tensorlogic.dims import TensorType

        dtype, *dims = item if isinstance(item, tuple) else (item, ...)
        return TensorType.of(dtype, tuple(dims))
