"""tensorlogic: load a model file and run typed tensor programs on it.

>>> import tensorlogic as tl
>>> x = tl.tensor([[1.0, 2.0], [3.0, 4.0]])
>>> tl.softmax(x @ x.T, axis=-1).shape
(2, 2)

Names are loaded when they are first used: `import tensorlogic` itself imports no other package.
"""

from __future__ import annotations

import sys
from types import ModuleType

__version__ = "0.1.0"

cpu = "cpu"
gpu = "gpu"

_HOME = {
    "tensorlogic.dtypes": (
        "DType float16 float32 int32 float64 bfloat16 float8_e4m3fn float8_e5m2 int8 int16 int64 "
        "uint8 uint16 uint32 uint64"
    ),
    "tensorlogic.errors": (
        "TensorLogicError ShapeError DTypeError DeviceError RangeError IndexRangeError TraceError "
        "ConsumedError FormatError MissingOperations TensorNotFoundError LanguageError "
        "LanguageSyntaxError LanguageRuntimeError"
    ),
    "tensorlogic.dims": "Dim TensorType dims",
    "tensorlogic.settings": "precision",
    "tensorlogic.devices.base": "devices",
    "tensorlogic.tensor": "Tensor",
    "tensorlogic.creation": "tensor from_numpy full zeros ones eye arange",
    "tensorlogic.function": "function",
    "tensorlogic.model": "Model load_model save_model",
    "tensorlogic.lang": "run_file",
}
_OF_TENSORS = ("tensorlogic.tensor", "tensorlogic.creation", "tensorlogic.model")
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}


def __getattr__(name: str) -> object:
    import importlib.util

    if name == "bool":
        value = importlib.import_module("tensorlogic.dtypes").bool_
    elif name in _MODULE_OF:
        if _MODULE_OF[name] in _OF_TENSORS:
            importlib.import_module("tensorlogic.functions")  # it completes Tensor's methods
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    elif name.startswith("_"):
        raise AttributeError(f"module 'tensorlogic' has no attribute {name!r}")
    elif importlib.util.find_spec(f"tensorlogic.{name}"):
        value = importlib.import_module(f"tensorlogic.{name}")
    else:
        functions = importlib.import_module("tensorlogic.functions").FUNCTIONS
        if name not in functions:
            names = importlib.import_module("tensorlogic.othernames").OF_PACKAGE
            hint = f": {names[name]}" if name in names else ""
            text = f"module 'tensorlogic' has no attribute {name!r}{hint}"
            raise AttributeError(text, name=name, obj=sys.modules[__name__])
        value = functions[name]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    import importlib

    functions = importlib.import_module("tensorlogic.functions").FUNCTIONS
    return sorted({"__version__", "bool", "cpu", "gpu", "random", *_MODULE_OF, *functions})


class _Package(ModuleType):
    """Keeps `tl.tensor`, `tl.dims`, `tl.function` as they are when modules of those names load."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in _MODULE_OF):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
