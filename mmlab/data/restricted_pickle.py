"""Reading pickles of plain data without running what stands in them.

A pickle is a program that calls whatever it names. Here it gets nothing to call but the stand-ins below, which take the
place of the few functions that NumPy's arrays need; not even NumPy's own are handed out, as these can be made to
unpickle again or to read memory that isn't theirs. Arrays are built from the bytes afterwards, checked.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from mmlab.errors import UserError

_PLAIN_TYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][0-9]+")
_LEAVES = (type(None), bool, int, float, complex, str, bytes, bytearray, set, frozenset)
_LAST_CHARACTER = 0x10FFFF


class _Refused(Exception):
    """Why a pickle isn't loaded, to stand behind the file's name."""


def load(path: Path) -> Any:
    """Reads a pickle that holds containers, strings, numbers and NumPy arrays of plain types, and nothing else.

    Arrays of objects are read if their objects are such things. NumPy's numbers become Python's. Arrays share the
    memory of the pickle's bytes and are read-only, so that reading takes about as much memory as the file is large;
    the file is read twice, as its instructions are looked through before one is followed.

    Args:
        path: of the file.

    Raises:
        UserError: if the file tries anything else (the sentence names what), is damaged, or can't be read.
    """
    try:
        with path.open("rb") as file:
            _look_through(file)
            file.seek(0)
            return _plain(_Unpickler(file).load(), {})
    except _Refused as refused:
        raise UserError(
            f"{path} is refused, as {refused}, which no file of plain arrays does: it may be hostile; get it anew from "
            f"its source."
        ) from refused
    except OSError as error:
        raise UserError(
            f"{path} can't be read ({error.strerror or error}); check the path and its permissions."
        ) from error
    except MemoryError as error:
        raise UserError(
            f"{path} asks for more memory than there is; if it isn't damaged, read it on a machine with more than "
            f"{path.stat().st_size / 1e9:.1f} GB to spare."
        ) from error
    except Exception as error:  # a damaged pickle may raise any
        reason = ascii(f"{type(error).__name__}: {error}"[:200])
        raise UserError(f"{path} is damaged or no pickle of arrays ({reason}); get it anew from its source.") from error


def _look_through(file: IO[bytes]) -> None:
    """Refuses the instructions that :class:`_Unpickler` would follow without asking."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name.startswith("EXT"):
            raise _Refused(f"it tries to load the extension {argument} of Python's registry")
        # The place in the memo is the one number for which memory is taken at once; an honest pickle counts it up.
        if opcode.name.endswith("PUT") and int(argument or 0) > count:
            raise _Refused(f"it tries to fill memory by storing under the number {argument}")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> _StandIn:
        try:
            return _STAND_INS[module_name, global_name]
        except KeyError:
            raise _Refused(f"it tries to load {_quoted(f'{module_name}.{global_name}')}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"it tries to load {_quoted(pid)} by a persistent id")


class _StandIn:
    """What a pickle gets for one of the names it may use: it can call it, and do nothing else with it."""

    __slots__ = ("_function", "_name")
    __hash__ = None  # type: ignore[assignment]  # so that none hides in a set or among keys

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        # Without this method the unpickler would set attributes as the pickle has them.
        raise _Refused(f"it tries to change '{self._name}'")


class _Type:
    """A NumPy dtype to be: that of objects, or one of plain values."""

    __slots__ = ("_code", "_order")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, code: str) -> None:
        if code not in ("O", "O8") and not _PLAIN_TYPE.fullmatch(code):
            raise _Refused(f"it tries to make an array of the type {_quoted(code)}")
        self._code = code
        self._order = "="

    def __setstate__(self, state: Any) -> None:
        _, order, subtype, names, fields, *_ = state
        if order not in ("<", ">", "=", "|") or (subtype, names, fields) != (None, None, None):
            raise _Refused("it tries to make an array of a type with parts")
        self._order = order

    @property
    def of_objects(self) -> bool:
        return self._code.startswith("O")

    def values(self, data: Any) -> np.ndarray:
        """All values that bytes hold, as one row."""
        if self._code.startswith("U") and np.frombuffer(data, self._order + "u4").max(initial=0) > _LAST_CHARACTER:
            raise ValueError("a string holds numbers that are no characters")
        return np.frombuffer(data, self._order + self._code)


class _Array:
    """A NumPy array to be."""

    __slots__ = ("_data", "_order", "_shape", "_type")
    __hash__ = None  # type: ignore[assignment]

    def __setstate__(self, state: Any) -> None:
        _, self._shape, self._type, fortran, self._data = state
        self._order: Literal["C", "F"] = "F" if fortran else "C"

    def build(self, seen: dict[int, tuple[object, object]]) -> np.ndarray:
        """The array, and in it, if it is one of objects, what :func:`_plain` makes of them."""
        shape = tuple(int(size) for size in self._shape)
        if not self._type.of_objects:
            return self._type.values(self._data).reshape(shape, order=self._order)
        if type(self._data) is not list or len(self._data) != math.prod(shape):
            raise ValueError("an array of objects has not as many as it says")
        values = np.empty(len(self._data), dtype=object)
        for place, value in enumerate(self._data):
            values[place] = _plain(value, seen)
        return values.reshape(shape, order=self._order)


def _new_array(kind: object, *_: object) -> _Array:
    if kind is not _NDARRAY:
        raise _Refused("it tries to make an array of another kind than 'numpy.ndarray'")
    return _Array()


def _array_of_buffer(data: Any, of_type: Any, shape: Any, order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, of_type, order == "F", data))
    return array


def _number(of_type: Any, data: Any) -> Any:
    if of_type.of_objects:  # NumPy itself would unpickle these bytes
        raise _Refused("it tries to unpickle another pickle by 'numpy.core.multiarray.scalar'")
    (value,) = of_type.values(data)
    return value.item()


def _latin1(text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise _Refused(f"it tries to encode by {_quoted(encoding)}")
    return text.encode("latin1")


def _uncallable(*_: object) -> None:
    raise _Refused("it tries to call 'numpy.ndarray'")


_NDARRAY = _StandIn("numpy.ndarray", _uncallable)
_STAND_INS = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _StandIn("numpy.dtype", lambda code, *_: _Type(code)),
    ("_codecs", "encode"): _StandIn("_codecs.encode", _latin1),  # how older protocols write bytes
}
for _core in ("numpy.core", "numpy._core"):  # as NumPy 1 and 2 write them
    _STAND_INS |= {
        (f"{_core}.multiarray", "_reconstruct"): _StandIn(f"{_core}.multiarray._reconstruct", _new_array),
        (f"{_core}.multiarray", "scalar"): _StandIn(f"{_core}.multiarray.scalar", _number),
        (f"{_core}.numeric", "_frombuffer"): _StandIn(f"{_core}.numeric._frombuffer", _array_of_buffer),
    }


def _plain(value: Any, seen: dict[int, tuple[object, object]]) -> Any:
    """What was loaded with arrays in place of those to be.

    Args:
        value: what was loaded; its lists and dicts are changed in place.
        seen: by id, what was met already and what became of it. It is kept alive, so that no id is used again.
    """
    if type(value) in _LEAVES:
        return value
    if id(value) in seen:
        return seen[id(value)][1]
    made: Any = value
    if type(value) is list:
        seen[id(value)] = (value, value)
        for place, item in enumerate(value):
            value[place] = _plain(item, seen)
    elif type(value) is dict:
        seen[id(value)] = (value, value)
        for key, item in value.items():
            value[key] = _plain(item, seen)
    elif type(value) is tuple:
        made = tuple(_plain(item, seen) for item in value)
    elif type(value) is _Array:
        made = value.build(seen)
    else:
        raise _Refused(f"it holds a bare {_quoted(type(value).__name__.strip('_'))}")
    seen[id(value)] = (value, made)
    return made


def _quoted(name: object) -> str:
    """A name that may be hostile itself, for a message: printable, and not too long."""
    return ascii(name[:100]) if isinstance(name, str) else f"an object of the type {type(name).__name__}"
