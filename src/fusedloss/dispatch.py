"""The way of a call: from a public function to a backend and back.

The compiled backend looks at the arguments itself and computes at once if they are canonical (the
fast door). For anything else, and for the other backends, `arguments` makes them canonical or
raises (the friendly door). The methods of the losses are at the fast door without even a frame of
Python: `fast_method`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from . import arguments
from .runtime import Backend, active, active_backend


def evaluate(name: str, *given: Any) -> Any:
    """Return what the active backend's function `name` gives for arguments in contract order."""
    backend = active()
    if backend.fast:
        result = backend.functions[name](*given)
        if result is not NotImplemented:
            return result
    return _friendly(backend, name, given)


def _friendly(backend: Backend, name: str, given: Sequence[Any]) -> Any:
    prepared: arguments.Prepared = getattr(arguments, name)(*given)
    if backend.module is None:
        backend.load()
    result = backend.functions[name](*prepared.canonical)
    if result is NotImplemented:
        arguments.blame(name, prepared.canonical)
        raise RuntimeError(
            f"{name} must be given arrays that nobody changes during the call, not arguments that "
            f'the "{backend.name}" backend declined and that are right when looked at again'
        )
    return prepared.deliver(result)


def fast_method(name: str, verb: int, method: Any) -> Any:
    """Return a method of the loss `name` that is at the fast door without a frame of Python.

    `method`, the one written in Python, has its docstring and signature, and does what it does not
    recognise. Where there is no compiled backend, `method` itself.
    """
    backend = active()
    if not backend.fast:
        return method
    friendly = partial(_friendly, backend, name)
    compiled = backend.functions["FastMethod"]
    return compiled(method, backend.functions[name], friendly, verb, active_backend, backend)
