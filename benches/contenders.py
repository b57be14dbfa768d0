"""Who runs: the backends of fusedloss, then the peers. All answer the same three questions.

- `runs(case)`: can it compute this, and is it worth a row?
- `calls(case, sets)`: one callable without arguments per set of buffers, everything converted
  beforehand;
- `outcome(case, raw)`: what a call returned, as named arrays, to be checked before the clock
  starts.

`settings()` is a context to call in: threads and backend are chosen there, outside of the timed
call.
"""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import fusedloss as fl

from . import axes


def named(case, raw):
    """The result of a call under the names of its parts."""
    if case.verb == axes.VALUE:
        return {"value": raw}
    if case.verb == axes.EVALUATE:
        return {"result": raw}
    names = ("value", "grad") if case.verb == axes.VALUE_AND_GRAD else ("grad", "hess")
    return dict(zip(names, raw, strict=True))


@dataclass(frozen=True)
class Backend:
    """One backend of fusedloss. `gradient` says where value_and_grad puts its gradient: "out",
    "new" or "in place".
    """

    name: str
    backend: str
    threads: int
    threads_forced: bool = False
    gradient: str = "out"
    ours: bool = True
    library: object = fl  # or another build of it

    @property
    def in_place(self):
        return self.gradient == "in place"

    def runs(self, case):
        if self.threads_forced and case.memory == axes.SMALL:
            return False  # small work is serial anyway
        if self.gradient == "out":
            return True
        return (
            case.verb == axes.VALUE_AND_GRAD
            and case.memory == axes.STREAMED
            and case.work != "binary_cross_entropy"
        )

    @contextmanager
    def settings(self):
        self.library.set_num_threads(self.threads)
        try:
            with self.library.use_backend(self.backend):
                yield
        finally:
            self.library.set_num_threads(None)

    def calls(self, case, sets):
        return [self._call(case, buffers) for buffers in sets]

    def _call(self, case, buffers):
        function = getattr(self.library, case.work)
        x, target = buffers.x, buffers.target
        if case.verb == axes.EVALUATE:
            out = buffers.row_result if case.work == "logsumexp" else buffers.grad
            return lambda: function(x, out=out)
        if case.verb == axes.VALUE:
            return lambda: function(x, target)
        method = getattr(function, case.verb)
        if case.verb == axes.GRAD_AND_HESS:
            pair = buffers.grad, buffers.hess
            return lambda: method(x, target, out=pair)
        if self.gradient == "new":
            return lambda: method(x, target)
        if self.in_place:
            logits = buffers.in_place
            return lambda: method(logits, target, out=logits)
        grad = buffers.grad
        return lambda: method(x, target, out=grad)

    def outcome(self, case, raw):
        return named(case, raw)


def backends(threads):
    """The backends that work here, and for each that does not the reason."""
    found, absent = [], {}
    for backend in ("cython", "numba", "numpy"):
        try:
            with fl.use_backend(backend):
                fl.mse_loss([0.0], [1.0])
        except ImportError as error:
            absent[backend] = str(error)
            continue
        if backend != "cython":
            found.append(Backend(backend, backend, threads=1))
            continue
        found.append(Backend("cython", backend, threads))
        if threads > 1:
            found.append(Backend("cython, 1 thread", backend, threads=1, threads_forced=True))
        found.append(Backend("cython, new gradient", backend, threads, gradient="new"))
        found.append(Backend("cython, in place", backend, threads, gradient="in place"))
    return found, absent


def unchanged():
    """The settings of a peer: its threads were set once, for the whole run."""
    return nullcontext()
