"""How every part of the kernel is compiled, and what all of them need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

FAST = {"contract", "reassoc", "nsz", "arcp"}  # not "no NaN, no infinity": bad numbers must show


def jit(signature: Any = None, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile: at once for a signature, else into whoever calls it.

    A function with a signature is kept on disk, beside its file or in the user's cache, if one of them is writable.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        options.update(nogil=True, error_model="numpy")
        try:
            return njit(signature, cache=signature is not None, **options)(function)
        except RuntimeError:
            return njit(signature, **options)(function)

    return compiled


def number_of(files: Iterable[Path]) -> int:
    """A number from 1 on that changes with any of these sources: what is compiled of them is kept under it."""
    return int.from_bytes(sha256(b"".join(file.read_bytes() for file in sorted(files))).digest()[:7], "big") + 1


# Loops over unsigned indexes become wide moves. Slices and slice assignments are slow: views are counted atomically.


@jit()
def copy(source: Any, at: int, target: Any, to: int, count: int) -> None:
    """Copy `count` elements from source[at] on to target[to] on."""
    start, put = np.uint64(at), np.uint64(to)
    for i in range(np.uint64(count)):
        target[put + i] = source[start + i]


@jit()
def fill(target: Any, start: int, value: Any) -> None:
    """Set target[start] and all that follow."""
    for i in range(np.uint64(start), np.uint64(target.size)):
        target[i] = value


def _prefetch(_context: Any, array: Any, index: Any) -> Any:
    """Start to fetch the element at a flat index of a contiguous array into the first cache."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        read, near, of_data = word(0), word(3), word(1)
        builder.call(function, [builder.bitcast(builder.gep(data, [args[1]]), byte), read, near, of_data])
        return context.get_dummy_value()

    return types.void(array, index), generate


prefetch: Any = intrinsic(_prefetch)
