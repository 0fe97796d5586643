"""An array library as strict as CuPy, made of NumPy: it refuses arrays that are not its own.

CuPy raises where a NumPy array meets one of its own in an operation, and a function of NumPy that gets a CuPy
array may copy it to the host; both go unseen on NumPy. Here they raise. Reductions give arrays without
dimensions, as CuPy's do, and no NumPy scalars.
"""

from typing import Any

import numpy as np

ACCEPTING = ("asarray", "array", "ascontiguousarray")
"""Functions that take a host's array to the device."""


class StrictArray(np.ndarray):
    """An array "on the device"."""

    def get(self) -> np.ndarray:
        """A copy on the host."""
        return np.array(self.view(np.ndarray))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        _refuse_foreign((inputs, keywords), ufunc.__name__)
        out = keywords.get("out")
        result = getattr(ufunc, method)(*_plain(inputs), **_plain(keywords))
        return out[0] if out is not None and out[0] is not None else _strict(result)

    def __array_function__(self, function: Any, types: Any, args: Any, keywords: Any) -> Any:
        _refuse_foreign((args, keywords), function.__name__)
        return _strict(function(*_plain(args), **_plain(keywords)))

    def __getitem__(self, index: Any) -> Any:
        _refuse_foreign(index, "an index")
        return _strict(super().__getitem__(_plain(index)))

    def __setitem__(self, index: Any, value: Any) -> None:
        _refuse_foreign((index, value), "an assignment")
        self.view(np.ndarray)[_plain(index)] = _plain(value)


class Library:
    """`numpy`, or a module of it, for strict arrays only."""

    def __init__(self, module: Any = np) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if isinstance(value, type(np.linalg)):
            return Library(value)
        if isinstance(value, type) or not callable(value):
            return value

        def checked(*args: Any, **keywords: Any) -> Any:
            if name not in ACCEPTING:
                _refuse_foreign((args, keywords), name)
            return _strict(value(*_plain(args), **_plain(keywords)))

        return checked


def _refuse_foreign(values: Any, where: str) -> None:
    if isinstance(values, dict):
        values = tuple(values.values())
    if isinstance(values, tuple | list):
        for value in values:
            _refuse_foreign(value, where)
    elif isinstance(values, np.ndarray) and not isinstance(values, StrictArray):
        raise TypeError(f"an array of the host in {where}")


def _plain(values: Any) -> Any:
    if isinstance(values, StrictArray):
        return values.view(np.ndarray)
    if isinstance(values, tuple | list):
        return type(values)(_plain(value) for value in values)
    if isinstance(values, dict):
        return {name: _plain(value) for name, value in values.items()}
    return values


def _strict(result: Any) -> Any:
    if isinstance(result, np.ndarray | np.generic):
        return np.asarray(result).view(StrictArray)
    if isinstance(result, tuple):
        return tuple(_strict(value) for value in result)
    return result
