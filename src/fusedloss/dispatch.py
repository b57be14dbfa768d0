"""The way of a call: from a public function to a backend and back.

The compiled backend looks at the arguments itself and computes at once if they are canonical (the
fast door). For anything else, and for the other backends, `arguments` makes them canonical or
raises (the friendly door).
"""

from __future__ import annotations

from typing import Any

from . import arguments
from .runtime import Backend, active


def evaluate(name: str, *given: Any) -> Any:
    """Return what the active backend's function `name` gives for arguments in contract order."""
    backend = active()
    if backend.fast:
        result = backend.functions[name](*given)
        if result is not NotImplemented:
            return result
    return _friendly(backend, name, given)


def _friendly(backend: Backend, name: str, given: tuple[Any, ...]) -> Any:
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
