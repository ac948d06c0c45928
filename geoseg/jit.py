"""Compiling with numba, its cache taken as a convenience: without one a kernel compiles anew.

numba keeps machine code beside the source, else in the user's cache folder. It gives up where
neither can be written (a read-only install without a home, as in containers), where the disk
is full, and where what lies in the cache is broken; none of these is a reason to fail.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar, overload

import numba

P = ParamSpec("P")
R = TypeVar("R")


@overload
def jit(function: Callable[P, R]) -> Callable[P, R]: ...
@overload
def jit(
    *, error_model: str = ..., fastmath: bool = ..., forceinline: bool = ...
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def jit(function: Any = None, **options: Any) -> Any:
    """Compile on the first call, without holding the GIL, from the cache where there is one."""
    if function is None:
        return lambda f: jit(f, **options)
    compiled: Any = numba.njit(nogil=True, **options)(function)
    if hasattr(compiled, "enable_caching"):  # not with NUMBA_DISABLE_JIT
        with suppress(RuntimeError, OSError):  # there is no place for it
            compiled.enable_caching()
            compiled._cache = _Forgiving(compiled._cache)
    return compiled


class _Forgiving:
    """A cache of numba; what goes wrong with it only means that the function is compiled."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, context: Any) -> Any:
        try:
            return self._cache.load_overload(signature, context)
        except Exception:  # noqa: BLE001  damaged pickles raise anything
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        try:
            self._cache.save_overload(signature, compiled)
        except Exception:  # noqa: BLE001  a full disk, an odd lock: nothing to fail for
            with suppress(OSError):  # an index that is damaged, or names code that is not there
                self._cache.flush()
