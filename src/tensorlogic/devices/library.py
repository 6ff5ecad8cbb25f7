"""The native functions of this process by name, and the objects on disk that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tensorlogic.devices.objects import compile_module, load_object, object_key


class Object:
    """Native code on disk: its key, the functions that it defines, the objects that it imports."""

    __slots__ = ("imports", "key", "names")

    def __init__(self, key: str, names: tuple[str, ...], imports: tuple[Object, ...]):
        self.key, self.names, self.imports = key, names, imports

    def plain(self) -> tuple[Any, ...]:
        """As plain data; `of_plain` takes it."""
        return self.key, self.names, tuple(o.plain() for o in self.imports)

    @classmethod
    def of_plain(cls, data: tuple[Any, ...]) -> Object:
        key, names, imports = data
        return cls(key, names, tuple(map(cls.of_plain, imports)))


class Library:
    """Objects that were compiled or loaded, and the kernels in them."""

    def __init__(self) -> None:
        self.kernels: dict[str, int] = {}
        """Their addresses, by name."""
        self._homes: dict[str, Object] = {}
        self._loaded: dict[str, tuple[Object, dict[str, int]]] = {}

    def home(self, name: str) -> Object:
        """The object that holds a kernel."""
        return self._homes[name]

    def compile(self, source: str, names: Sequence[str], imports: Iterable[Object] = ()) -> Object:
        """Compile a module of LLVM IR, or load it from the disk, once."""
        key = object_key(source)
        if key not in self._loaded:
            parts = tuple(imports)
            addresses = compile_module(source, names, self._addresses(parts))
            self._loaded[key] = Object(key, tuple(names), parts), addresses
        return self._loaded[key][0]

    def load(self, wanted: Object) -> bool:
        """Load an object from the disk, and what it imports; False where one is gone."""
        if wanted.key not in self._loaded:
            if not all(map(self.load, wanted.imports)):
                return False
            addresses = load_object(wanted.key, wanted.names, self._addresses(wanted.imports))
            if addresses is None:
                return False
            self._loaded[wanted.key] = wanted, addresses
        return True

    def add_kernels(self, made: Object) -> None:
        """The functions of a loaded object are kernels."""
        for name, address in self._loaded[made.key][1].items():
            self.kernels.setdefault(name, address)
            self._homes.setdefault(name, made)

    def _addresses(self, imports: Iterable[Object]) -> dict[str, int]:
        found: dict[str, int] = {}
        for o in imports:
            found |= self._loaded[o.key][1]
        return found
