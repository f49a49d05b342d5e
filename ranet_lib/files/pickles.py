"""Pickles read without running any of them: plain values and arrays of integers, and nothing else."""

import io
import pickle
import struct

import numpy as np


def unpickle_arrays(data: bytes) -> dict:
    """Read a pickled dict of plain values and numpy arrays of integers, running nothing that it names.

    A pickle is a program that may call any function. Here the few names that a pickled array needs stand for readers of
    this module. `data` is a pickle of protocol 0 to 5, by Python 2 or 3 and numpy 1 or 2. Keys come out as text, Python
    2's other text as bytes, arrays read-only. A pickle that is damaged or asks for anything else is a ValueError.
    """
    try:
        content = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(content, dict):
            raise ValueError(f"holds a {type(content).__name__}, not a dict")
        return {_text(key): value.array if isinstance(value, _Array) else value for key, value in content.items()}
    except _Refused:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"is damaged or cut short ({type(error).__name__}: {error})") from error


class _Refused(ValueError):
    """A pickle asked for more than plain data."""


def _without_tuples(load, keys: slice):
    """An opcode's function `load`, which refuses tuples among the keys of a dict on the stack."""
    def checked(reader: pickle._Unpickler) -> None:
        if any(isinstance(key, tuple) for key in reader.stack[keys]):
            raise _Refused("holds a tuple as a key: only plain values and arrays of integers are read")
        load(reader)
    return checked


class _ArrayUnpickler(pickle._Unpickler):
    """Python's reader of pickles, without sets and tuples as keys.

    A crafted pickle can make the reader in C end the process (tuples nested too deep to hash) or reserve any memory.
    """

    dispatch = pickle._Unpickler.dispatch.copy()
    for code in pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET:
        del dispatch[code[0]]
    dispatch[pickle.SETITEM[0]] = _without_tuples(dispatch[pickle.SETITEM[0]], slice(-2, -1))
    for code in pickle.SETITEMS, pickle.DICT:
        dispatch[code[0]] = _without_tuples(dispatch[code[0]], slice(None, None, 2))

    def load_bytearray8(self) -> None:
        """Bytes of so many as there are; Python's own would make room for as many as a pickle claims."""
        (length,) = struct.unpack("<Q", self.read(8))
        raw = self.read(length)
        if len(raw) < length:
            raise EOFError(f"{length:,} bytes are named, and {len(raw):,} are there")
        self.append(raw)

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def find_class(self, module: str, name: str):
        """A fresh reader without attributes each time, so that a pickle can change nothing that stays."""
        if f"{module}.{name}" not in _READERS:
            raise _Refused(f"asks to run {module}.{name}: only plain values and arrays of integers are read")
        return type("Reader", (), {"__slots__": (), "__call__": staticmethod(_READERS[f"{module}.{name}"])})()


class _Array:
    __slots__ = ("array",)

    def __init__(self, subtype, shape, typecode):
        """As numpy does it, the array comes with the state."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, column_major, raw = state
        self.array = _integers(raw, kind).reshape(shape, order="F" if column_major else "C")

    @classmethod
    def of_buffer(cls, raw: bytes, kind: "_Type", shape: tuple, order: str) -> "_Array":
        """As protocol 5 has it, in one."""
        found = cls(None, shape, None)
        found.__setstate__((1, shape, kind, order == "F", raw))
        return found


class _Type:
    __slots__ = ("dtype",)

    def __init__(self, code: str | bytes, *flags):
        if _text(code) not in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"):
            raise _Refused(f"holds an array of type {_text(code)!r}: only integers are read")
        self.dtype = np.dtype(_text(code))

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(_text(state[1]))


def _integers(raw: bytes, kind: "_Type") -> np.ndarray:
    if not isinstance(kind, _Type) or not isinstance(raw, bytes):
        raise _Refused("holds an array of other things than integers")
    return np.frombuffer(raw, kind.dtype)


def _scalar(kind: "_Type", raw: bytes) -> int:
    """One number of an array, as `list(array)` has them."""
    (number,) = _integers(raw, kind)
    return int(number)


def _bytes(text: str, encoding: str | bytes) -> bytes:
    if _text(encoding) not in ("latin1", "latin-1"):
        raise _Refused(f"holds bytes encoded as {encoding!r}: only latin1 is read")
    return text.encode("latin-1")


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


_READERS = {
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _Array.of_buffer for core in ("core", "_core")},
    "numpy.ndarray": _Array,  # only ever handed to _reconstruct
    "numpy.dtype": _Type,
    "_codecs.encode": _bytes,  # by which Python 3 writes bytes in the protocols of Python 2
}
