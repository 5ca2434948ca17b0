"""Reading pickles of plain data without running what stands in them.

A pickle is a program for a small machine with a stack. Python's own machine can be told what the program may call, but
not what it may build, and a few bytes make it hash a tuple until its stack is full, or for ever. So this is a machine
of its own for the instructions that plain data need, and with nothing to call but the stand-ins below. They take the
place of the few functions that NumPy's arrays need; not even NumPy's own are called, as these can be made to unpickle
again or to read memory that isn't theirs. Arrays are built from the bytes afterwards, checked.
"""

from __future__ import annotations

import math
import os
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from mmlab.errors import UserError

_PLAIN_TYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][0-9]{1,9}")
_LAST_CHARACTER = 0x10FFFF
_MOST_INSTRUCTIONS = 5_000_000  # that memory and time stay small; a file of arrays has a few for each string it holds
_LEAVES = (type(None), bool, int, float, complex, str, bytes, bytearray)
_PLAIN = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Refused(Exception):
    """Why a pickle isn't loaded, to stand behind the file's name."""


def load(path: Path) -> Any:
    """Reads a pickle that holds lists, tuples, dicts of strings, strings, numbers and NumPy arrays, and nothing else.

    Arrays of objects are read if their objects are such things. NumPy's numbers become Python's. Arrays share the
    memory of the pickle's bytes and are read-only, so that reading takes about as much memory as the file is large.

    Args:
        path: of the file.

    Raises:
        UserError: if the file tries anything else (the sentence names what), is damaged, or can't be read.
    """
    try:
        with path.open("rb") as file:
            return _plain(_Machine(os.fstat(file.fileno()).st_size).run(file), {})
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


class _Machine:
    """Follows the instructions of one pickle.

    Args:
        size: of the file in bytes.
    """

    def __init__(self, size: int) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        # What stands in a file once is copied twice at most: from text to bytes, and from there to an array.
        self._room = 2 * size

    def run(self, file: IO[bytes]) -> Any:
        """What the program leaves on the stack."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > _MOST_INSTRUCTIONS:
                raise _Refused(f"it has more than {_MOST_INSTRUCTIONS} instructions")
            self._follow(opcode.name, argument)
        return self._stack.pop()

    def _follow(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _PLAIN:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            stack.append(tuple(self._last(_TUPLES[name])))
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        else:
            self._follow_rarer(name, argument)

    def _follow_rarer(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "MARK":
                self._marks.append(len(stack))
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                stack.append(self._since_mark())
            case "APPEND":
                self._append(self._last(1))
            case "APPENDS":
                self._append(self._since_mark())
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                items = self._since_mark()
                stack.append({})
                self._set(items)
            case "SETITEM":
                self._set(self._last(2))
            case "SETITEMS":
                self._set(self._since_mark())
            case "GLOBAL":
                stack.append(_stand_in(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(_stand_in(*self._last(2)))
            case "REDUCE":
                function, arguments = self._last(2)
                stack.append(self._call(function, arguments))
            case "BUILD":
                (state,) = self._last(1)
                self._change(stack[-1], state)
            case _:
                of = "" if argument is None else f" of {ascii(argument)[:100]}"
                raise _Refused(f"it tries the instruction {name}{of}")

    def _last(self, count: int) -> list[Any]:
        """Takes as many from the stack."""
        taken = self._stack[-count:]
        if len(taken) < count:
            raise IndexError("the stack is empty")
        del self._stack[-count:]
        return taken

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _append(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise _Refused(f"it tries to append to {_described(self._stack[-1])}")
        self._stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not dict:
            raise _Refused(f"it tries to set items of {_described(self._stack[-1])}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:  # numbers can be chosen such that a dict of them takes hours
                raise _Refused(f"it has {_described(key)} for a key")
            self._stack[-1][key] = value

    def _call(self, function: Any, arguments: Any) -> Any:
        if type(function) is not _StandIn:
            raise _Refused(f"it tries to call {_described(function)}")
        self._pay(arguments)
        return function.call(*arguments)

    def _change(self, value: Any, state: Any) -> None:
        if type(value) not in (_Type, _Array):
            raise _Refused(f"it tries to change {_described(value)}")
        self._pay(state)
        value.change(state)

    def _pay(self, arguments: Any) -> None:
        """Ends a pickle that has what it holds once copied over and over."""
        if type(arguments) is not tuple:
            raise _Refused(f"it has {_described(arguments)} in place of arguments")
        self._room -= len(arguments)
        self._room -= sum(len(one) for one in arguments if type(one) in (str, bytes, bytearray, list, tuple))
        if self._room < 0:
            raise _Refused("it tries to fill memory with copies")


class _StandIn:
    """What a pickle gets for one of the names it may use: it can call it, and do nothing else with it."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name = name
        self.call = call


class _Type:
    """A NumPy dtype to be: that of objects, or one of plain values."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: str, _align: object = False, _copy: object = True) -> None:
        if type(code) is not str or (code not in ("O", "O8") and not _PLAIN_TYPE.fullmatch(code)):
            raise _Refused(f"it tries to make an array of the type {_quoted(code)}")
        self._code = code
        self._order = "="

    def change(self, state: tuple[Any, ...]) -> None:
        """Takes on the order of bytes."""
        _, order, subtype, names, fields, *_ = state
        if order not in ("<", ">", "=", "|") or not (subtype is names is fields is None):
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

    def change(self, state: tuple[Any, ...]) -> None:
        """Takes on what is in the array."""
        _, self._shape, self._type, fortran, self._data = state
        self._order: Literal["C", "F"] = "F" if fortran else "C"

    def build(self, seen: dict[int, tuple[object, object]]) -> np.ndarray:
        """The array, and in it, if it is one of objects, what :func:`_plain` makes of them."""
        shape = tuple(int(size) for size in self._shape)
        if min(shape, default=0) < 0:
            raise ValueError("an array has less than nothing along an axis")
        if not self._type.of_objects:
            return self._type.values(self._data).reshape(shape, order=self._order)
        if type(self._data) is not list or len(self._data) != math.prod(shape):
            raise ValueError("an array of objects has not as many as it says")
        values = np.empty(len(self._data), dtype=object)
        for place, value in enumerate(self._data):
            values[place] = _plain(value, seen)
        return values.reshape(shape, order=self._order)


def _new_array(kind: object, _shape: object, _type: object) -> _Array:
    if kind is not _NDARRAY:
        raise _Refused("it tries to make an array of another kind than 'numpy.ndarray'")
    return _Array()


def _array_of_buffer(data: Any, of_type: Any, shape: Any, order: str) -> _Array:
    array = _Array()
    array.change((1, shape, of_type, order == "F", data))
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
    ("numpy", "dtype"): _StandIn("numpy.dtype", _Type),
    ("_codecs", "encode"): _StandIn("_codecs.encode", _latin1),  # how older protocols write bytes
}
for _core in ("numpy.core", "numpy._core"):  # as NumPy 1 and 2 write them
    _STAND_INS |= {
        (f"{_core}.multiarray", "_reconstruct"): _StandIn(f"{_core}.multiarray._reconstruct", _new_array),
        (f"{_core}.multiarray", "scalar"): _StandIn(f"{_core}.multiarray.scalar", _number),
        (f"{_core}.numeric", "_frombuffer"): _StandIn(f"{_core}.numeric._frombuffer", _array_of_buffer),
    }


def _stand_in(module: Any, name: Any) -> _StandIn:
    if type(module) is not str or type(name) is not str:
        raise _Refused(f"it tries to load {_described(name)} of {_described(module)}")
    try:
        return _STAND_INS[module, name]
    except KeyError:
        raise _Refused(f"it tries to load {_quoted(f'{module}.{name}')}") from None


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
        raise _Refused(f"it holds {_described(value)} by itself")
    seen[id(value)] = (value, made)
    return made


def _described(value: object) -> str:
    return f"'{value.name}'" if type(value) is _StandIn else f"an object of the type {type(value).__name__.strip('_')}"


def _quoted(name: object) -> str:
    """A name that may be hostile itself, for a message: printable, and not too long."""
    return ascii(name[:100]) if isinstance(name, str) else _described(name)
