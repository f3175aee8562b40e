"""A pickle reader that runs nothing: a stack machine that only builds strings, numbers, lists and tuples.

A pickle is a program; the standard library runs it with every right the user has. Here names of
functions stay names: nothing is ever imported or called. The four calls that files of images
contain (how old pickles spell bytes, NumPy scalars and arrays) are recognised by name and worked
out here; everything else is refused.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

MAX_OPERATIONS: Final = (
    1_000_000  # two to five an image; keeps a hostile file under about 200 MB of small objects
)


class Refusal(Exception):  # noqa: N818 (it is not the program that errs)
    """Why the pickle is not read; the caller turns it into a UserError."""


@dataclass(frozen=True)
class Name:
    """A function or class that the pickle names; never resolved."""

    path: str


@dataclass
class Array:
    """A NumPy array or scalar that the pickle describes: element type and bytes."""

    kind: str = ""
    data: bytes | memoryview = b""


_MARK: Final = object()


def as_text(value: Any) -> str:
    """Names and type codes come as text or, from Python 2, as bytes."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | memoryview) and len(value) < 100:
        return bytes(value).decode("latin-1")
    raise Refusal("a name is not a text")


class Machine:
    """The stack machine. Every read is checked against the end of the file before anything is allocated."""

    def __init__(self, content: memoryview) -> None:
        self.content = content
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.spare = len(content)  # bytes that re-encoding may still create: each real call has its own text

    def run(self) -> Any:
        """What the pickle builds; memoryviews stand for bytes, :class:`Array` for anything of NumPy."""
        for _ in range(MAX_OPERATIONS):
            code = self._take(1)[0]
            if code == 0x2E:  # STOP
                return self._pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise Refusal(
                    f"it holds the pickle operation {bytes([code])!r} that no pair file needs (byte {self.at - 1})"
                )
            operation(self)
        raise Refusal(f"it has more than {MAX_OPERATIONS} pickle operations")

    # Reading

    def _take(self, size: int) -> memoryview:
        if size > len(self.content) - self.at:
            raise Refusal(f"it ends in the middle of a record (byte {self.at})")
        piece = self.content[self.at : self.at + size]
        self.at += size
        return piece

    def _number(self, layout: str) -> int:
        value: int = struct.unpack(layout, self._take(struct.calcsize(layout)))[0]
        return value

    def _line(self) -> str:
        piece = bytes(self.content[self.at : self.at + 300]).partition(b"\n")
        if not piece[1]:
            raise Refusal(f"it holds an endless line (byte {self.at})")
        self.at += len(piece[0]) + 1
        return piece[0].decode("latin-1")

    def _decimal(self) -> int:
        digits = self._line().removesuffix("L")
        if not (digits.isascii() and digits.removeprefix("-").isdigit() and len(digits) < 20):
            raise Refusal(f"{digits[:20]!r} is not a number (byte {self.at})")
        return int(digits)

    def _decimal_or_bool(self) -> int:
        """Protocol 0 writes True as ``I01``."""
        line_starts = self.at
        value = self._decimal()
        spelled = bytes(self.content[line_starts : line_starts + 3])
        return bool(value) if spelled in (b"00\n", b"01\n") else value

    # Stack and memo

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise Refusal(f"it takes a value from an empty stack (byte {self.at})")
        return self.stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise Refusal(f"it misses a mark (byte {self.at})")

    def _tuple(self, size: int) -> None:
        self._push(tuple(reversed([self._pop() for _ in range(size)])))

    def _extend(self, items: list[Any]) -> None:
        target = self._pop()
        if not isinstance(target, list):
            raise Refusal(f"it appends to something that is no list (byte {self.at})")
        target.extend(items)
        self._push(target)

    def _put(self, place: int) -> None:
        self.memo[place] = self._pop()
        self._push(self.memo[place])

    def _get(self, place: int) -> None:
        if place not in self.memo:
            raise Refusal(f"it recalls a value that it never stored (byte {self.at})")
        self._push(self.memo[place])

    def _unicode(self, size: int) -> None:
        try:
            self._push(str(self._take(size), "utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            raise Refusal(f"it holds a text that is no UTF-8 (byte {self.at})") from None

    # The calls that real files contain

    def _global(self, module: Any, name: Any) -> None:
        self._push(Name(f"{as_text(module)}.{as_text(name)}"))

    def _stack_global(self) -> None:
        name = self._pop()
        self._global(self._pop(), name)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        match function, arguments:
            case Name("_codecs.encode"), (str() as text, str() as encoding) if encoding in (
                "latin1",
                "latin-1",
            ):
                self.spare -= len(text)
                if self.spare < 0:
                    raise Refusal("it blows one text up to more than the file")
                try:
                    self._push(text.encode("latin-1"))
                except UnicodeEncodeError:
                    raise Refusal("it holds bytes that are no bytes") from None
            case Name("__builtin__.bytes" | "builtins.bytes"), ():
                self._push(b"")
            case Name("numpy.dtype"), (kind, *_):
                self._push(Array(as_text(kind).lstrip("|")))
            case Name("numpy.core.multiarray._reconstruct" | "numpy._core.multiarray._reconstruct"), (
                Name("numpy.ndarray"),
                *_,
            ):
                self._push(Array())  # filled by BUILD
            case (
                Name("numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar"),
                (Array() as dtype, (bytes() | memoryview()) as data),
            ):
                self._push(Array(dtype.kind, data))
            case (
                Name("numpy.core.numeric._frombuffer" | "numpy._core.numeric._frombuffer"),
                ((bytes() | memoryview()) as data, Array() as dtype, *_),
            ):
                self._push(Array(dtype.kind, data))
            case Name(path), _:
                raise Refusal(f"it would call {path}, which a file of images has no need of; it was not run")
            case _:
                raise Refusal(f"it calls something that has no name (byte {self.at})")

    def _build(self) -> None:
        state, target = self._pop(), self._pop()
        match target, state:
            case Array(kind=""), (_, _, Array() as dtype, _, (bytes() | memoryview()) as data):
                target.kind, target.data = dtype.kind, data  # in place: the memo may hold it already
            case Array(), (_, _, *_):  # byte order and the like of a dtype
                pass
            case _:
                raise Refusal(f"it sets the state of an object (byte {self.at})")
        self._push(target)


def _constant(value: Any) -> Callable[[Machine], None]:
    return lambda machine: machine._push(value)


def _sized(layout: str) -> Callable[[Machine], None]:
    return lambda machine: machine._push(machine._take(machine._number(layout)))


_OPERATIONS: Final[dict[int, Callable[[Machine], None]]] = {
    ord(code): operation
    for code, operation in {
        "\x80": lambda m: m._take(1),  # PROTO
        "\x95": lambda m: m._take(8),  # FRAME: a hint for buffering only
        "N": _constant(None),
        "\x88": _constant(True),
        "\x89": _constant(False),
        "I": lambda m: m._push(m._decimal_or_bool()),
        "L": lambda m: m._push(m._decimal()),
        "K": lambda m: m._push(m._number("<B")),
        "M": lambda m: m._push(m._number("<H")),
        "J": lambda m: m._push(m._number("<i")),
        "\x8a": lambda m: m._push(int.from_bytes(m._take(m._number("<B")), "little", signed=True)),  # LONG1
        "U": _sized("<B"),  # SHORT_BINSTRING: a Python 2 str is bytes
        "T": _sized("<I"),
        "C": _sized("<B"),  # SHORT_BINBYTES
        "B": _sized("<I"),
        "\x8e": _sized("<Q"),
        "\x96": _sized("<Q"),  # BYTEARRAY8
        "\x8c": lambda m: m._unicode(m._number("<B")),
        "X": lambda m: m._unicode(m._number("<I")),
        "\x8d": lambda m: m._unicode(m._number("<Q")),
        "(": _constant(_MARK),
        "]": lambda m: m._push([]),
        "l": lambda m: m._push(m._pop_to_mark()),
        "a": lambda m: m._extend([m._pop()]),
        "e": lambda m: m._extend(m._pop_to_mark()),
        ")": _constant(()),
        "t": lambda m: m._push(tuple(m._pop_to_mark())),
        "\x85": lambda m: m._tuple(1),
        "\x86": lambda m: m._tuple(2),
        "\x87": lambda m: m._tuple(3),
        "p": lambda m: m._put(m._decimal()),
        "q": lambda m: m._put(m._number("<B")),
        "r": lambda m: m._put(m._number("<I")),
        "\x94": lambda m: m._put(len(m.memo)),
        "g": lambda m: m._get(m._decimal()),
        "h": lambda m: m._get(m._number("<B")),
        "j": lambda m: m._get(m._number("<I")),
        "c": lambda m: m._global(m._line(), m._line()),
        "\x93": lambda m: m._stack_global(),
        "R": lambda m: m._reduce(),
        "b": lambda m: m._build(),
    }.items()
}
