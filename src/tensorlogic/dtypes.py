"""Element types, and how they mix.

A dtype is a class (so that it can stand in an annotation, `Tensor[float16, N, D]`) whose metaclass
`DType` carries its facts. Four dtypes compute: float16 (the default), float32, int32 and bool. The
others are storage dtypes: tensors of files keep them, `.to` converts them, nothing else reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorlogic.errors import DTypeError

if TYPE_CHECKING:
    import numpy as np

FLOAT16_MAX = 65504.0


class DType(type):
    """The class of all dtypes.

    Attributes: `name` ("float16"), `itemsize` (bytes), `kind` ("float", "int" or "bool"), `ir` (its
    name in the kernel IR), `computes` (False for storage dtypes).

    >>> import tensorlogic as tl
    >>> tl.float16, tl.float16.itemsize, tl.float16.kind
    (float16, 2, 'float')
    """

    name: str
    itemsize: int
    kind: str
    ir: str
    computes: bool

    def __repr__(cls) -> str:
        return cls.name

    def __getitem__(cls, dims: Any) -> Any:
        """`float16[N, D]`: the run-time form of the annotation `Tensor[float16, N, D]`."""
        from tensorlogic.dims import TensorType

        return TensorType.of(cls, dims if isinstance(dims, tuple) else (dims,))

    @property
    def numpy(cls) -> np.dtype[Any]:
        """The NumPy dtype of the same layout (from ml_dtypes for bfloat16 and float8)."""
        import numpy as np

        if cls.name in _ML_DTYPES:
            import ml_dtypes

            found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, cls.name))
            return found
        return np.dtype(cls.name)


_ML_DTYPES = ("bfloat16", "float8_e4m3fn", "float8_e5m2")


class float16(metaclass=DType):
    """IEEE 754 half precision, the default: 11 bits of precision, values up to 65504."""

    name, itemsize, kind, ir, computes = "float16", 2, "float", "f16", True


class float32(metaclass=DType):
    """IEEE 754 single precision; what float16 arithmetic is done in."""

    name, itemsize, kind, ir, computes = "float32", 4, "float", "f32", True


class int32(metaclass=DType):
    """Signed integers of 32 bits: indices, positions, counts."""

    name, itemsize, kind, ir, computes = "int32", 4, "int", "i32", True


class bool_(metaclass=DType):
    """Truth values, one byte each: masks and the results of comparisons."""

    name, itemsize, kind, ir, computes = "bool", 1, "bool", "bool", True


class float64(metaclass=DType):
    """IEEE 754 double precision, a storage dtype."""

    name, itemsize, kind, ir, computes = "float64", 8, "float", "f64", False


class bfloat16(metaclass=DType):
    """The upper half of a float32, a storage dtype."""

    name, itemsize, kind, ir, computes = "bfloat16", 2, "float", "bf16", False


class float8_e4m3fn(metaclass=DType):
    """8-bit floats with 3 bits of fraction, values up to 448, no infinities; a storage dtype."""

    name, itemsize, kind, ir, computes = "float8_e4m3fn", 1, "float", "f8e4", False


class float8_e5m2(metaclass=DType):
    """8-bit floats with 2 bits of fraction, values up to 57344; a storage dtype."""

    name, itemsize, kind, ir, computes = "float8_e5m2", 1, "float", "f8e5", False


class int8(metaclass=DType):
    """Signed integers of 8 bits, a storage dtype."""

    name, itemsize, kind, ir, computes = "int8", 1, "int", "i8", False


class int16(metaclass=DType):
    """Signed integers of 16 bits, a storage dtype."""

    name, itemsize, kind, ir, computes = "int16", 2, "int", "i16", False


class int64(metaclass=DType):
    """Signed integers of 64 bits, a storage dtype."""

    name, itemsize, kind, ir, computes = "int64", 8, "int", "i64", False


class uint8(metaclass=DType):
    """Unsigned integers of 8 bits, a storage dtype."""

    name, itemsize, kind, ir, computes = "uint8", 1, "int", "u8", False


class uint16(metaclass=DType):
    """Unsigned integers of 16 bits, a storage dtype."""

    name, itemsize, kind, ir, computes = "uint16", 2, "int", "u16", False


class uint32(metaclass=DType):
    """Unsigned integers of 32 bits, a storage dtype."""

    name, itemsize, kind, ir, computes = "uint32", 4, "int", "u32", False


class uint64(metaclass=DType):
    """Unsigned integers of 64 bits, a storage dtype."""

    name, itemsize, kind, ir, computes = "uint64", 8, "int", "u64", False


DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        float16,
        float32,
        int32,
        bool_,
        float64,
        bfloat16,
        float8_e4m3fn,
        float8_e5m2,
        int8,
        int16,
        int64,
        uint8,
        uint16,
        uint32,
        uint64,
    )
}


def as_dtype(value: Any) -> DType:
    """The dtype that `value` names: a dtype, its name, a NumPy dtype, or float, int, bool.

    >>> import numpy as np
    >>> as_dtype("float16"), as_dtype(np.float32), as_dtype(bool)
    (float16, float32, bool)
    """
    if isinstance(value, DType):
        return value
    if isinstance(value, str) and value in DTYPES:
        return DTYPES[value]
    if value is float:
        return float16
    if value is int:
        return int32
    if value is bool:
        return bool_
    if not isinstance(value, str):
        import numpy as np

        try:
            name = np.dtype(value).name
        except TypeError:
            name = ""
        if name in DTYPES:
            return DTYPES[name]
    if isinstance(value, int):
        raise DTypeError(f"{value} is no dtype; a shape is one argument, such as `[2, {value}]`")
    known = ", ".join(DTYPES)
    raise DTypeError(f"unknown dtype {value!r}; the dtypes are {known}")


_PROMOTION: dict[tuple[DType, DType], DType] = {
    (bool_, bool_): bool_,
    (bool_, int32): int32,
    (int32, int32): int32,
    (float16, float16): float16,
    (float16, float32): float32,
    (float32, float32): float32,
    (bool_, float16): float16,
    (bool_, float32): float32,
}


def promote(op: str, a: DType, b: DType) -> DType:
    """The dtype in which `a` and `b` meet; int32 with a float needs an explicit `.to`."""
    found = _PROMOTION.get((a, b)) or _PROMOTION.get((b, a))
    if found is not None:
        return found
    for storage in (a, b):
        if not storage.computes:
            raise DTypeError(
                f"{op}: {storage} is a storage dtype; convert first, for example "
                f"`.to({'float16' if storage.kind == 'float' else 'int32'})`"
            )
    raise DTypeError(f"{op}: {a} and {b} do not mix; convert one with `.to(...)`")
