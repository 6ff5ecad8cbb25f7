"""Compiled objects: kept, found again, and never loaded unless they can be trusted."""

from __future__ import annotations

import ctypes
import os
import re
import struct
import subprocess
import sys

import pytest

from tensorlogic.codegen.emit import Module
from tensorlogic.devices import diskcache, elf, native, objects, symbols


def answer(value: int) -> str:
    module = Module()
    f = module.function("answer", [], "i64")
    f.ret("i64", str(value))
    return module.text()


def ask(address: int) -> int:
    return ctypes.CFUNCTYPE(ctypes.c_int64)(address)()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORLOGIC_CACHE", str(tmp_path))
    native.host()
    return tmp_path / "objects"


@pytest.fixture
def emitted(monkeypatch):
    """How many modules have been compiled."""
    count = []
    emit = objects._emit
    monkeypatch.setattr(objects, "_emit", lambda *a: (count.append(1), emit(*a))[1])
    return count


def compile_answer(value: int) -> int:
    return ask(objects.compile_module(answer(value), ["answer"])["answer"])


def test_an_object_is_compiled_once(folder, emitted):
    assert compile_answer(1) == 1
    assert compile_answer(1) == 1
    assert len(emitted) == 1
    assert compile_answer(2) == 2
    assert len(emitted) == 2
    files = list(folder.iterdir())
    assert len(files) == 2
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(f.stat().st_mode & 0o777 == 0o600 for f in files)


def spoil_byte(path, other):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def spoil_end(path, other):
    path.write_bytes(path.read_bytes()[:-10])


def spoil_empty(path, other):
    path.write_bytes(b"")


def spoil_name(path, other):
    path.write_bytes(other.read_bytes())


def spoil_mode(path, other):
    path.chmod(0o620)


def spoil_link(path, other):
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to(aside)


@pytest.mark.parametrize(
    "spoil", [spoil_byte, spoil_end, spoil_empty, spoil_name, spoil_mode, spoil_link]
)
def test_a_spoiled_object_is_recompiled_never_loaded(folder, emitted, spoil):
    compile_answer(1)
    path = next(folder.iterdir())
    good = path.read_bytes()
    compile_answer(2)
    other = next(f for f in folder.iterdir() if f != path)
    spoil(path, other)
    assert compile_answer(1) == 1
    assert len(emitted) == 3
    assert path.read_bytes() == good
    assert not path.is_symlink()
    assert compile_answer(1) == 1
    assert len(emitted) == 3


def test_an_object_of_another_user_is_not_loaded(folder, emitted, monkeypatch):
    compile_answer(1)
    real = os.fstat
    stranger = os.geteuid() + 1

    def fstat(descriptor):
        about = real(descriptor)
        return os.stat_result([*about[:4], stranger, *about[5:10]])

    monkeypatch.setattr(diskcache.os, "fstat", fstat)
    assert compile_answer(1) == 1
    assert len(emitted) == 2


def test_an_unsafe_folder_is_not_used(folder, emitted):
    compile_answer(1)
    folder.chmod(0o777)
    diskcache._usable.cache_clear()
    with pytest.warns(RuntimeWarning, match="not kept in .*only this user can write"):
        assert compile_answer(1) == 1
    assert len(emitted) == 2
    diskcache._usable.cache_clear()


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path, monkeypatch, emitted):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TENSORLOGIC_CACHE", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="not kept in .*TENSORLOGIC_CACHE"):
        assert compile_answer(1) == 1
    assert compile_answer(1) == 1


def test_the_oldest_objects_go_first(folder, monkeypatch):
    compile_answer(1)
    first = next(folder.iterdir())
    os.utime(first, (1, 1))
    compile_answer(2)
    monkeypatch.setattr(diskcache, "CACHE_LIMIT", first.stat().st_size + 100)
    diskcache._trim(folder)
    assert len(list(folder.iterdir())) == 1
    assert not first.exists()


def test_a_used_object_counts_as_new(folder):
    compile_answer(1)
    path = next(folder.iterdir())
    os.utime(path, (1, 1))
    compile_answer(1)
    assert path.stat().st_mtime > 1e9


CHILD = """
import sys
from tensorlogic.devices import native
from test_objects import compile_answer
assert [compile_answer(v) for v in range(20)] == list(range(20))
print("llvmlite" in sys.modules)
"""


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}


def python(text):
    """What a program of its own prints."""
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return done.stdout


def test_processes_share_the_cache(folder):
    together = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD], env=environment(), stdout=subprocess.DEVNULL
        )
        for _ in range(3)
    ]
    assert [child.wait() for child in together] == [0, 0, 0]
    assert python(CHILD) == f"{not elf.SUPPORTED}\n"


LIBRARY_CALL = """
define half @narrow(double %x) {
  %h = fptrunc double %x to half
  ret half %h
}
"""
CONSTANTS = """
@table = internal constant [4 x i64] [i64 1, i64 20, i64 300, i64 4000]
@counter = internal global i64 7
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
define internal i64 @twice(i64 %x) noinline {
  %y = add i64 %x, %x
  ret i64 %y
}
define i64 @sum(i64 %k) {
  %p = getelementptr i64, ptr @table, i64 %k
  %v = load i64, ptr %p
  %c = load i64, ptr @counter
  %n = add i64 %c, 1
  store i64 %n, ptr @counter
  %t = call i64 @twice(i64 %v)
  %r = add i64 %t, %c
  ret i64 %r
}
define void @clear(ptr %p, i64 %n) {
  call void @llvm.memset.p0.i64(ptr %p, i8 0, i64 %n, i1 false)
  ret void
}
"""


@pytest.fixture(params=[True, False] if elf.SUPPORTED else [False], ids=str)
def loader(request, folder, monkeypatch):
    """With our own loader, where there is one, and with llvmlite's."""
    monkeypatch.setattr(elf, "SUPPORTED", request.param)


def test_both_loaders(loader):
    found = objects.compile_module(CONSTANTS, ["sum", "clear"])
    total = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(found["sum"])
    assert [total(0), total(3), total(1)] == [2 + 7, 8000 + 8, 40 + 9]
    clear = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(found["clear"])
    block = bytearray(b"x" * 5000)
    clear(ctypes.addressof(ctypes.c_char.from_buffer(block)), 4999)
    assert block == b"\0" * 4999 + b"x"


def test_an_unknown_symbol_is_an_error(loader):
    module = "declare i64 @outside_of_the_known()\n" + (
        "define i64 @f() {\n  %v = call i64 @outside_of_the_known()\n  ret i64 %v\n}\n"
    )
    with pytest.raises(RuntimeError, match=r"outside_of_the_known|materialize"):
        objects.compile_module(module, ["f"])


CALLER = """
from tensorlogic.devices import elf, objects
from test_objects import LIBRARY_CALL
elf.SUPPORTED = {supported}
try:
    objects.compile_module(LIBRARY_CALL, ["narrow"])
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif(native.host().has("avx512fp16"), reason="an instruction there, not a call")
def test_a_library_call_is_an_error(loader):
    # In a process of its own: llvmlite's loader finds the function in other libraries of this one.
    done = python(CALLER.format(supported=elf.SUPPORTED))
    assert re.search(r"truncdfhf2|materialize", done)


def test_a_name_that_is_not_there_is_an_error(loader):
    with pytest.raises(RuntimeError, match="another"):
        objects.compile_module(answer(1), ["another"])


def test_invalid_ir_is_an_error(folder):
    with pytest.raises(RuntimeError, match="expected"):
        objects.compile_module("define void @f() { nonsense }", ["f"])


def test_the_elf_loader_refuses_what_it_does_not_know(folder):
    image = bytearray(objects._emit(CONSTANTS, native.host()))
    with pytest.raises(RuntimeError, match="not an x86-64 ELF"):
        elf.load(b"\xcf\xfa\xed\xfe" + image[4:], ["sum"], symbols.address)
    table = struct.unpack_from("<Q", image, 40)[0]
    count = struct.unpack_from("<H", image, 60)[0]
    for i in range(count):
        kind, at = struct.unpack_from("<I", image, table + 64 * i + 4)[0], table + 64 * i
        if kind == 4:  # relocations
            offset = struct.unpack_from("<Q", image, at + 24)[0]
            struct.pack_into("<I", image, offset + 8, 19)  # R_X86_64_TLSGD
    with pytest.raises(RuntimeError, match="relocation type 19"):
        elf.load(bytes(image), ["sum"], symbols.address)
