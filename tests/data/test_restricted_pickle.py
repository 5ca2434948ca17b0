"""Hostile pickles: the payload of each makes a file, which Python's own loader shows and ours must not."""

import copyreg
import os
import pickle
import struct
import subprocess
import time
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mmlab.data import restricted_pickle
from mmlab.data.restricted_pickle import load
from mmlab.errors import UserError


class Call:
    """Is pickled as a call of a function."""

    def __init__(self, function: Callable, *arguments: object, state: object = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.reduced


def program(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: object) -> bytes:
    written = str(value).encode()
    return b"X" + struct.pack("<I", len(written)) + written


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def discarded(file: Path) -> bytes:
    return program(named("posix", "mkdir"), text(file), b"\x85R0", text("all is well"))


def object_array(file: Path) -> bytes:
    array = np.empty(2, dtype=object)
    array[1] = [Call(os.mkdir, str(file))]
    return pickle.dumps({"train": array}, protocol=4)


def number_of_objects(file: Path) -> bytes:
    scalar = np.float32(0).__reduce__()[0]
    return pickle.dumps(Call(scalar, np.dtype("O"), pickle.dumps(Call(os.mkdir, str(file)))), protocol=4)


def written_array(file: Path) -> bytes:
    array = pickle.dumps(np.arange(3), protocol=4)[2:-1]  # in its frame
    frame = array[9:] if array[:1] == b"\x95" else array
    return program(named("numpy", "ndarray.tofile"), b"(", frame, text(file), b"tR")


# What each tries: its name in the sentence, and the pickle; the payload makes the file or folder given to it.
HOSTILE: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "eval": ("builtins.eval", lambda file: pickle.dumps(Call(eval, f"open({str(file)!r}, 'w').close()"))),
    "exec, protocol 0": ("__builtin__.exec", lambda file: pickle.dumps(Call(exec, f"open({str(file)!r}, 'w')"), 0)),
    "a shell": ("posix.system", lambda file: pickle.dumps(Call(os.system, f"touch {file}"), 4)),
    "a process": (
        "subprocess.check_call",
        lambda file: pickle.dumps(Call(subprocess.check_call, ["touch", str(file)])),
    ),
    "a file": ("io.open", lambda file: pickle.dumps(Call(open, str(file), "w"))),
    "NumPy's own file": (
        "numpy.memmap",
        lambda file: pickle.dumps(Call(np.memmap, str(file), "u1", "w+", 0, (4,)), protocol=4),
    ),
    "a pickle in a pickle": (
        "_pickle.loads",
        lambda file: pickle.dumps(Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(file)))), protocol=4),
    ),
    "getattr": (
        "builtins.getattr",
        lambda file: program(
            *(named("builtins", "getattr"), named("pathlib", "Path"), text("mkdir"), b"\x86R"),
            *(named("pathlib", "Path"), text(file), b"\x85R", b"\x85R"),
        ),
    ),
    "a method by a dotted name": ("numpy.ndarray.tofile", written_array),
    "an object in an array": ("posix.mkdir", object_array),
    "what is thrown away": ("posix.mkdir", discarded),
    "the opcode INST": ("posix mkdir", lambda file: b"(V" + str(file).encode() + b"\niposix\nmkdir\n."),
    "the opcode OBJ": ("posix.mkdir", lambda file: b"(cposix\nmkdir\nV" + str(file).encode() + b"\no."),
    "the opcode NEWOBJ": (
        "_io.FileIO",
        lambda file: program(named("_io", "FileIO"), b")\x81", text(file), text("w"), b"\x86b"),
    ),
    "the state of an object": (
        "functools.partial",
        lambda file: program(
            *(named("functools", "partial"), named("posix", "mkdir"), b"\x85R"),
            *(b"(", named("posix", "mkdir"), text(file), b"\x85}Ntb", b")R"),
        ),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_loads_nothing_and_is_told_by_name(tmp_path: Path, name: str) -> None:
    tried, make = HOSTILE[name]
    file, made = tmp_path / "hostile.pkl", tmp_path / "made"
    file.write_bytes(make(made))
    with pytest.raises(UserError) as error:
        load(file)
    assert str(error.value).startswith(f"{file} is refused, as it tries ")
    assert f" '{tried}', " in str(error.value)
    assert not made.exists()
    if name != "the opcode NEWOBJ":  # the others do work where nobody refuses them
        pickle.loads(file.read_bytes())
        assert made.exists()


@pytest.fixture
def extension() -> Iterator[int]:
    copyreg.add_extension("posix", "mkdir", 240)
    yield 240
    copyreg.remove_extension("posix", "mkdir", 240)
    copyreg._extension_cache.clear()


def test_an_extension_is_refused_though_python_knows_it_by_heart(tmp_path: Path, extension: int) -> None:
    file = tmp_path / "hostile.pkl"
    for name in ("first", "second"):
        made = tmp_path / name
        file.write_bytes(program(b"\x82", bytes([extension]), text(made), b"\x85R"))
        with pytest.raises(UserError, match="it tries the instruction EXT1 of 240,"):
            load(file)
        assert not made.exists()
        pickle.loads(file.read_bytes())  # fills the cache that is looked up without asking for a name
        assert made.exists()


def test_a_number_of_objects_would_be_a_pickle_in_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "hostile.pkl").write_bytes(number_of_objects(tmp_path / "made"))
    with pytest.raises(UserError, match=r"tries to unpickle another pickle by 'numpy.core.multiarray.scalar'"):
        load(tmp_path / "hostile.pkl")
    assert not (tmp_path / "made").exists()


RECONSTRUCT = np.arange(3).__reduce__()[0]
STRUCTURE = np.zeros(1, dtype=[("a", "f4"), ("b", "O")])


@pytest.mark.parametrize(
    ("content", "tried"),
    [
        (b"\x80\x04X\x03\x00\x00\x00abcQ.", "the instruction BINPERSID"),
        (b"Pabc\n.", "the instruction PERSID of 'abc'"),
        (pickle.dumps(Call(RECONSTRUCT, np.memmap, (0,), b"b"), 4), "to load 'numpy.memmap'"),
        (
            pickle.dumps(Call(RECONSTRUCT, np.dtype, (0,), b"b"), 4),
            "to make an array of another kind than 'numpy.ndarray'",
        ),
        (pickle.dumps(Call(np.ndarray, (2,), "O"), 4), "to call 'numpy.ndarray'"),
        (pickle.dumps(STRUCTURE, 4), "to make an array of the type 'V12'"),
        (
            pickle.dumps(Call(np.dtype, "f4", state=(3, "<", (np.dtype("O"), (2,)), None, None, 8, 1, 63)), 4),
            "with parts",
        ),
        (pickle.dumps(Call(np.dtype, "f4", state=(3, "O8,", None, None, None, 8, 1, 63)), 4), "with parts"),
        (pickle.dumps(Call(np.dtype, "V8,O"), 4), "to make an array of the type 'V8,O'"),
        (program(named("_codecs", "encode"), text("a"), text("rot13"), b"\x86R"), "to encode by 'rot13'"),
        (program(named("_codecs", "encode"), b"}", text("a"), b"Nsb"), "to change '_codecs.encode'"),
        (program(named("numpy", "ndarray"), b"N}", text("a"), b"Ns\x86b"), "to change 'numpy.ndarray'"),
        (program(named("numpy", "dtype"), b")\x81"), "it tries the instruction NEWOBJ"),
        (program(named("numpy", "ndarray")), "it holds 'numpy.ndarray' by itself"),
        (pickle.dumps(OrderedDict(a=1), 4), "to load 'collections.OrderedDict'"),
        (pickle.dumps(types.SimpleNamespace(a=1), 4), "to load 'types.SimpleNamespace'"),
        (b"c\x1b[2Jos\nsystem\n.", r"'\\x1b\[2Jos.system'"),
    ],
)
def test_other_ways_are_refused(tmp_path: Path, content: bytes, tried: str) -> None:
    (tmp_path / "hostile.pkl").write_bytes(content)
    with pytest.raises(UserError, match=tried):
        load(tmp_path / "hostile.pkl")
    good = tmp_path / "good.pkl"  # whatever it tried, it changed nothing
    good.write_bytes(pickle.dumps({"a": np.arange(3.0)}, protocol=2))
    np.testing.assert_array_equal(load(good)["a"], np.arange(3.0))


def stored(*values: bytes) -> bytes:
    """Puts each into the memo, under 0, 1 ..., and leaves nothing on the stack."""
    return b"".join(value + b"\x940" for value in values)


def typed(code: str) -> bytes:
    return named("numpy", "dtype") + text(code) + b"\x85R"


def bulk(size: int) -> bytes:
    return b"B" + struct.pack("<I", size) + bytes(size)


MERSENNE = 2**61 - 1  # Python hashes all its multiples to 0
COLLIDING = b"".join(b"\x8a\x0c" + (number * MERSENNE).to_bytes(12, "little") + b"N" for number in range(60_000))
NEW_ARRAY = named("numpy.core.multiarray", "_reconstruct"), named("numpy", "ndarray")
# One more array of 1000000 values out of memo 2, of the type in memo 3.
ONE_MORE = b"h\x00h\x01K\x00\x85C\x01b\x87R(K\x01J" + struct.pack("<i", 1_000_000) + b"\x85h\x03\x89h\x02tb"


@pytest.mark.parametrize(
    ("content", "tried"),
    [
        (program(b"}", b"N" + b"\x85" * 500_000, b"Ns"), "tuple for a key"),  # its hash would overrun the stack
        (program(b"}", b"N" + b"2\x86" * 60, b"Ns"), "tuple for a key"),  # its hash would take for ever
        (program(b"}(", COLLIDING, b"u"), "int for a key"),
        (program(b"(", COLLIDING, b"d"), "int for a key"),
        (program(b"\x8f(", COLLIDING, b"\x90"), "the instruction EMPTY_SET"),
        (program(b"(", COLLIDING, b"\x91"), "the instruction FROZENSET"),
        (
            program(
                stored(text("a" * 1_000_000), named("_codecs", "encode"), text("latin1")),
                *(b"](", b"h\x01h\x00h\x02\x86R" * 9000, b"e"),
            ),
            "to fill memory with copies",
        ),
        (
            program(
                stored(bulk(1_000_000), named("numpy.core.multiarray", "scalar"), typed("S1000000")),
                *(b"](", b"h\x01h\x02h\x00\x86R" * 9000, b"e"),
            ),
            "to fill memory with copies",
        ),
        (
            program(stored(*NEW_ARRAY, b"](" + b"N" * 1_000_000 + b"e", typed("O")), b"](", ONE_MORE * 3000, b"e"),
            "to fill memory with copies",
        ),
        (
            program(stored(*NEW_ARRAY, bulk(4_000_000), typed("U1")), b"](", ONE_MORE * 3000, b"e"),
            "to fill memory with copies",
        ),
        (program(b"K\x01N\x93"), "to load an object of the type NoneType of an object of the type int"),
        (program(b"K\x01N\x86K\x02R"), "to call an object of the type tuple"),
        (program(named("numpy", "dtype"), b"K\x02R"), "an object of the type int in place of arguments"),
        (program(b"]}b"), "to change an object of the type list"),
        (program(typed("f4"), b"Na"), "to append to an object of the type Type"),
        (program(b"]K\x00Ns"), "to set items of an object of the type list"),
        (program(b"\x97"), "the instruction NEXT_BUFFER"),
        (program(named("numpy", "ndarray"), b"(}\x92"), "the instruction NEWOBJ_EX"),
        (b"S'abc'\n.", "the instruction STRING of 'abc'"),  # of Python 2, where it may be bytes
    ],
)
def test_what_python_itself_would_choke_on_is_refused_at_once(tmp_path: Path, content: bytes, tried: str) -> None:
    (tmp_path / "hostile.pkl").write_bytes(content)
    start = time.process_time()
    with pytest.raises(UserError, match=rf"is refused, as it .*{tried}, which"):
        load(tmp_path / "hostile.pkl")
    assert time.process_time() - start < 20


def absurd(opcode: bytes, size: int) -> bytes:
    return program(opcode, struct.pack("<Q", size), b"x")


def forged(shape: tuple, kind: str, data: object) -> bytes:
    return pickle.dumps(Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, shape, np.dtype(kind), False, data)), 4)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps({"a": np.arange(100)}, 4)[:300],
        absurd(b"\x8e", 2**40),
        absurd(b"\x8e", 2**62),
        absurd(b"\x8e", 2**63),
        absurd(b"\x95", 2**62),
        absurd(b"\x96", 2**45),
        forged((2**40, 2**20), "f8", b"12345678"),
        forged((3,), "f8", b"12345678"),
        forged((2**30,), "O", [1]),
        forged((1,), "O", b"12345678"),
        forged((-1,), "f8", b"12345678"),
        program(  # an array in itself
            *(stored(*NEW_ARRAY, b"]", b"h\x00h\x01K\x00\x85C\x01b\x87R"), b"h\x02h\x03a0"),
            *(b"h\x03(K\x01K\x01\x85", typed("O"), b"\x89h\x02tb"),
        ),
        program(b"0"),
        program(b"\x85"),
        program(b"e"),
        forged((1,), "U1", b"\xff\xff\xff\x7f"),
        pickle.dumps(Call(RECONSTRUCT, np.ndarray, (2**50,), b"b"), 4),
        program(b"]" * 50_000, b"a" * 49_999),
        program(b"h\x07"),
    ],
)
def test_damage_and_absurd_sizes_are_one_sentence_at_once(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "damaged.pkl").write_bytes(content)
    start = time.process_time()  # the work done, however long the machine lets it wait
    with pytest.raises(UserError) as error:
        load(tmp_path / "damaged.pkl")
    assert time.process_time() - start < 10
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_a_file_of_instructions_alone_ends_before_memory_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restricted_pickle, "_MOST_INSTRUCTIONS", 1000)
    (tmp_path / "a.pkl").write_bytes(program(b"]" * 1001))
    with pytest.raises(UserError, match="it has more than 1000 instructions"):
        load(tmp_path / "a.pkl")


def test_a_high_number_of_the_memo_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(program(b"Nr", struct.pack("<I", 2**31)))
    assert load(tmp_path / "a.pkl") is None


def test_doubling_references_take_no_time(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(program(b"N", b"2\x86" * 200))
    value, depth = load(tmp_path / "a.pkl"), 0
    while value is not None:
        assert value[0] is value[1]
        value, depth = value[0], depth + 1
    assert depth == 200


PLAIN = {
    "floats": np.arange(6, dtype="f4").reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "every second": np.arange(10)[::2],
    "big endian": np.arange(3, dtype=">i4"),
    "bools": np.array([True, False]),
    "halves": np.ones(2, dtype="f2"),
    "complex": np.array([1j]),
    "no rows": np.empty((0, 3)),
    "no axes": np.array(3),
    "strings": np.array(["ab", "c"]),
    "bytes": np.array([b"x", b"yy"]),
    "infinite": np.array([-np.inf, np.nan]),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_come_back(tmp_path: Path, protocol: int) -> None:
    objects = np.array(["x", None, 3], dtype=object)
    numbers = [np.float32(1.5), np.int64(7), np.bool_(True), np.str_("é")]
    shared = [1, (2, np.arange(2))]
    arrays = {name: array for name, array in PLAIN.items() if protocol > 2 or array.size}  # written as a call of bytes
    content = {**arrays, "objects": objects, "numbers": numbers, "shared": [shared, shared]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    got = load(tmp_path / "a.pkl")
    assert list(got) == list(content)
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name], array)
        assert got[name].dtype == array.dtype
    assert got["objects"].tolist() == ["x", None, 3]
    assert got["numbers"] == [1.5, 7, True, "é"]
    assert {type(number) for number in got["numbers"]} == {float, int, bool, str}
    assert got["shared"][0] is got["shared"][1]
    np.testing.assert_array_equal(got["shared"][0][1][1], [0, 1])


def test_arrays_share_the_memory_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(np.arange(1000.0), protocol=4))
    array = load(tmp_path / "a.pkl")
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_files_that_nobody_can_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a.pkl can't be read \(No such file or directory\)"):
        load(tmp_path / "a.pkl")
    with pytest.raises(UserError, match=r"can't be read \(Is a directory\)"):
        load(tmp_path)
