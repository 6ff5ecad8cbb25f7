"""Every exception that tensorlogic raises.

TensorLogicError
├── ShapeError              (ValueError)     shapes that do not fit, found when an op is recorded
├── DTypeError              (TypeError)      dtypes that do not fit, or that an op does not take
├── DeviceError             (RuntimeError)   a device that is absent, or two devices in one op
├── RangeError              (OverflowError)  a value that float16 cannot hold, stopped by the gate
├── IndexRangeError         (IndexError)     an index outside its axis
├── TraceError              (TypeError)      a traced value was asked for its number
├── ConsumedError           (RuntimeError)   a tensor was used after `update` had consumed it
├── FormatError             (ValueError)     a file that is damaged, hostile or of an unknown format
├── MissingOperations       (NotImplementedError)  a program of operations that do not run
├── TensorNotFoundError     (KeyError)       a model has no tensor of that name
└── LanguageError           (Exception)      a fault in a text program, with file, line and column
    ├── LanguageSyntaxError (SyntaxError)
    └── LanguageRuntimeError (RuntimeError)

Each is also the builtin exception that a Python programmer expects in that place.
"""

from __future__ import annotations


class TensorLogicError(Exception):
    """The base of all errors of this package."""


class ShapeError(TensorLogicError, ValueError):
    """Shapes or dims that do not fit together."""


class DTypeError(TensorLogicError, TypeError):
    """A dtype that an op does not take, or two that do not mix."""


class DeviceError(TensorLogicError, RuntimeError):
    """A device that is not available, or tensors of two devices in one op."""


class RangeError(TensorLogicError, OverflowError):
    """A value beyond ±65504 on its way into float16."""


class IndexRangeError(TensorLogicError, IndexError):
    """An index outside its axis."""


class TraceError(TensorLogicError, TypeError):
    """The number of a value was asked for while a `tl.function` was being traced."""


class ConsumedError(TensorLogicError, RuntimeError):
    """A tensor was used after `update` had consumed it."""


class FormatError(TensorLogicError, ValueError):
    """A file that is damaged, hostile or of a format that is not supported."""


class MissingOperations(TensorLogicError, NotImplementedError):
    """A Core ML program has operations that tensorlogic does not run."""


class TensorNotFoundError(TensorLogicError, KeyError):
    """A model has no tensor of the name that was asked for."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class LanguageError(TensorLogicError):
    """A fault in a text program; the message names file, line and column."""


class LanguageSyntaxError(LanguageError, SyntaxError):
    """Text that is not a program."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class LanguageRuntimeError(LanguageError, RuntimeError):
    """A fault that was found while a text program ran."""
