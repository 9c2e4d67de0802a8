"""One thread for the linear algebra: its parallelism is the tasks', and more threads change bits."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController


class _BlasLimit:
    """One BLAS thread for as long as anybody in this process asks; tasks of several threads overlap.

    Threads that end at once set the limit and lift it: threadpoolctl lets nobody lift what a living thread has set, and
    Ctrl-C reaches none but the main one.
    """

    def __init__(self) -> None:
        self._reset()
        # a lock that another thread of the parent holds would stay locked for ever in the child
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        # these belong to the threads that follow
        self._following = threading.Lock()
        self._limit: Any = None
        self._libraries: tuple[ThreadpoolController, int] | None = None

    def libraries(self) -> ThreadpoolController:
        """The libraries of this process that have threads of their own.

        Looking for them takes milliseconds, as much as a small pass; what loads more is an import.
        """
        found, n_modules = self._libraries, len(sys.modules)
        if found is None or found[1] != n_modules:
            found = self._libraries = ThreadpoolController(), n_modules
        return found[0]

    def __enter__(self) -> None:
        asked = False
        try:
            with self._lock:
                self._users, asked = self._users + 1, True
                if self._users == 1:
                    self._have_followed()
        except BaseException:
            # Ctrl-C meanwhile: nobody will leave what was never entered
            if asked:
                self.__exit__()
            raise

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._have_followed()

    def _have_followed(self) -> None:
        follower = threading.Thread(target=self._follow, name="blas-limit", daemon=True)
        follower.start()
        follower.join()

    def _follow(self) -> None:
        """Set or lift the limit, as the number of users says: whoever was interrupted need not know what was done."""
        with self._following:
            if self._users and self._limit is None:
                self._limit = self.libraries().limit(limits=1, user_api="blas")
            elif not self._users and self._limit is not None:
                self._limit.restore_original_limits()
                self._limit = None


#: Context of whatever multiplies or decomposes matrices.
one_blas_thread = _BlasLimit()


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for OpenMP, too: the threads of k-means add up in whatever order they come."""
    with one_blas_thread, one_blas_thread.libraries().limit(limits=1, user_api="openmp"):
        yield
