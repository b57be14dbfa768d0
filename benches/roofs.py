"""The roofs: how fast this machine's memory can be read, copied and rewritten in place, with all
threads of the run.

They are measured again beside every streamed group, because they move with whatever else the
machine does:

- read: every thread sums its part of one array (`np.add.reduce` in float64, which releases the
  GIL);
- copy: every thread copies its part into another array with streaming stores (`roofs.c`; where
  there is no C compiler `np.copyto`, whose stores usually read their destination first: a lower
  roof, and the report says so);
- in place: every thread negates its part of one array (`np.negative`), which reads and writes every
  line.

All are in bytes moved between the program and its arrays: a copy counts one read and one write.
"""

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .library import compiled

PASSES = 3  # over the arrays per sample: the threads' start is then a small part of it
SAMPLES = 2  # per turn


class Roofs:
    """Arrays for the three roofs, and threads to move them."""

    def __init__(self, threads, last_level_cache, folder):
        size = min(max(8 * last_level_cache, 2**28), 2**30)
        self.size = size = size // (threads * 4096) * threads * 4096
        self.source, self.sink = (_page_aligned(size) for _ in range(2))
        self.source.fill(0)
        self.sink.fill(0)
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)
        self.library = _copies(folder)
        streaming = self.library is not None and self.library.has_streaming_stores()
        self.descriptions = {
            "read": "sum of float64",
            "copy": "streaming stores"
            if streaming
            else "plain stores, which read their destination first",
            "in place": "negation of float32",
        }

    def sample(self, case):
        """Rates in bytes per second of the roofs that bound a case: `{"read": ...}`, or that of
        what it writes too.
        """
        if case.hardly_writes:
            return {"read": self._rate(self._read, 1)}
        return {"copy": self._rate(self._copy, 2), "in place": self._rate(self._in_place, 2)}

    def _rate(self, move, times):
        rates = []
        for _ in range(SAMPLES):
            start = time.perf_counter()
            list(self.pool.map(move, range(self.threads)))
            rates.append(PASSES * times * self.size / (time.perf_counter() - start))
        return max(rates)

    def _part(self, array, thread):
        part = self.size // self.threads
        return array[thread * part : (thread + 1) * part]

    def _read(self, thread):
        values = self._part(self.source, thread).view(np.float64)
        for _ in range(PASSES):
            np.add.reduce(values)

    def _copy(self, thread):
        source, sink = self._part(self.source, thread), self._part(self.sink, thread)
        for _ in range(PASSES):
            if self.library is None:
                np.copyto(sink, source)
            else:
                self.library.stream_copy(sink.ctypes.data, source.ctypes.data, source.nbytes)

    def _in_place(self, thread):
        values = self._part(self.sink, thread).view(np.float32)
        for _ in range(PASSES):
            np.negative(values, out=values)


def bounding_roof(case, contender):
    """The name of the roof that bounds a case."""
    if case.hardly_writes:
        return "read"
    return "in place" if contender.in_place else "copy"


def _page_aligned(size):
    room = np.empty(size + 4096, np.uint8)
    first = -room.ctypes.data % 4096
    return room[first : first + size]


def _copies(folder):
    """`roofs.c` as a library, or None."""
    library = compiled("roofs", folder)
    if library is not None:
        library.stream_copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        library.stream_copy.restype = None
    return library
