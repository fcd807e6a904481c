"""How every part of the kernel is compiled, and the two loops that all of them need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

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


# Loops over two slices become wide moves; slice assignments and sums of indexes do not.


@jit()
def copy(source: Any, at: int, target: Any, to: int, count: int) -> None:
    """Copy `count` elements from source[at] on to target[to] on."""
    a, b = source[at : at + count], target[to : to + count]
    for i in range(count):
        b[i] = a[i]


@jit()
def fill(target: Any, start: int, value: Any) -> None:
    """Set target[start] and all that follow."""
    part = target[start:]
    for i in range(part.size):
        part[i] = value
