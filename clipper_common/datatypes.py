"""Input types, batch policies, model ids, the rules for names, and how text from outside is shown."""

import re
from array import array
from collections.abc import Iterator, Sequence
from enum import IntEnum, StrEnum
from typing import Any, Final, NamedTuple, Self

from clipper_common.constants import MAX_NAME_LENGTH
from clipper_common.errors import ClipperException


class InputType(IntEnum):
    """The type of a model's inputs. The value is its number on the wire."""

    BYTES = 0
    INTS = 1
    FLOATS = 2
    DOUBLES = 3
    STRINGS = 4

    @classmethod
    def parse(cls, word: str) -> Self:
        """Return the type that `word` names, in any of its accepted spellings.

        Raises `ClipperException` if it is none.
        """
        try:
            return cls[_WORDS[word.strip().lower()]]
        except (KeyError, AttributeError):
            raise ClipperException(f"{word} is not a valid input string") from None

    @property
    def canonical_name(self) -> str:
        """The spelling in Redis and in answers."""
        return _CANONICAL_NAMES[self]

    @property
    def typecode(self) -> str:
        """The type code of `array` for one element. Strings have none."""
        return _TYPECODES[self]

    @property
    def element_bytes(self) -> int:
        return 1 if self is InputType.STRINGS else array(self.typecode).itemsize


_CANONICAL_NAMES: Final = {
    InputType.BYTES: "bytes",
    InputType.INTS: "integers",
    InputType.FLOATS: "floats",
    InputType.DOUBLES: "doubles",
    InputType.STRINGS: "strings",
}
_SPELLINGS: Final = {
    InputType.BYTES: "b byte bytes",
    InputType.INTS: "i int ints integer integers",
    InputType.FLOATS: "f float floats",
    InputType.DOUBLES: "d double doubles",
    InputType.STRINGS: "s str strs string strings",
}
_WORDS: Final = {word: kind.name for kind, words in _SPELLINGS.items() for word in words.split()}
_TYPECODES: Final = {
    InputType.BYTES: "B",
    InputType.INTS: "i",
    InputType.FLOATS: "f",
    InputType.DOUBLES: "d",
}
_NUMPY_NAMES: Final = {
    InputType.BYTES: "int8",  # signed, as in the containers of Clipper 0.4: 0xff is -1
    InputType.INTS: "int32",
    InputType.FLOATS: "float32",
    InputType.DOUBLES: "float64",
}


View = bytes | memoryview


class Packed(Sequence[View]):
    """The inputs of a batch, concatenated."""

    def __init__(self, data: View, sizes: Sequence[int]) -> None:
        self.data = data
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def __iter__(self) -> Iterator[View]:
        start = 0
        for size in self._sizes:
            yield self.data[start : start + size]
            start += size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def are_equally_long(self) -> bool:
        return self._sizes.count(self._sizes[0]) == len(self._sizes) if self._sizes else False


def to_model_inputs(kind: InputType, inputs: Sequence[View]) -> Any:
    """Return the inputs of a batch as a model function gets them.

    Strings are a list of ``str``. Other types are a writable 2-D array of shape (inputs, elements)
    when all inputs have the same length, else a list of writable 1-D arrays.
    """
    if kind is InputType.STRINGS:
        return [str(text, "utf-8") for text in inputs]
    import numpy as np

    dtype = _NUMPY_NAMES[kind]
    if isinstance(inputs, Packed) and inputs.are_equally_long():
        return np.frombuffer(bytearray(inputs.data), dtype=dtype).reshape(len(inputs), -1)
    if len({len(item) for item in inputs}) == 1:
        return np.frombuffer(bytearray().join(inputs), dtype=dtype).reshape(len(inputs), -1)
    return [np.frombuffer(bytearray(item), dtype=dtype) for item in inputs]


class BatchPolicy(StrEnum):
    """The policy that chooses the size of a model's batches. The value is its name in answers."""

    LEARNED = "learned"
    """The batch size is chosen by a line through the times of past batches. It is the default for a batch size of
    -1."""
    AIMD = "aimd"
    QUANTILE = "quantile"
    FIXED = "fixed"

    @classmethod
    def parse(cls, word: str) -> Self:
        try:
            return cls(word)
        except ValueError:
            names = ", ".join(cls)
            raise ClipperException(f"{word} is not a batch policy. Use one of {names}") from None


class ModelId(NamedTuple):
    """A version of a model; its text form is ``name:version``."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"

    @classmethod
    def parse(cls, text: str) -> Self:
        name, _, version = text.partition(":")
        return cls(name, version)


class Link(NamedTuple):
    """A model that answers queries of an application: one version of it, or its current one.

    The text form is ``name:version``, or ``name`` for the current version.
    """

    model_name: str
    version: str | None = None

    def __str__(self) -> str:
        return self.model_name if self.version is None else f"{self.model_name}:{self.version}"

    @classmethod
    def parse(cls, text: str) -> Self:
        name, colon, version = text.partition(":")
        return cls(name, version if colon else None)


_APP_NAME: Final = re.compile(r"[A-Za-z0-9_.~-]+")
_RESERVED_APP_NAMES: Final = frozenset({".", ".."})
_DNS_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_VERSION: Final = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters, ends of lines and paragraphs, and characters that change the direction of text."""
_CONTROL: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
"""Control characters, line ends among them, and halves of surrogate pairs."""
_FORBIDDEN_IN_IDS: Final = re.compile(r"[,:\x00-\x1f\x7f\ud800-\udfff]")
"""Characters that no name of a model may have. New names have further restrictions."""
_FORBIDDEN_IN_TEXTS: Final = re.compile(f"[{_CONTROL}]")


def is_app_name(name: str) -> bool:
    """Whether ``/<name>/predict`` needs no escapes."""
    return len(name) <= MAX_NAME_LENGTH and bool(_APP_NAME.fullmatch(name)) and name not in _RESERVED_APP_NAMES


def is_id_part(text: str) -> bool:
    """Whether a new model may have this name, version or label: it is printable, and unambiguous in keys and lists of
    Redis.  Older ones may have other characters, which are escaped where they are shown.
    """
    return "," not in text and ":" not in text and not _UNPRINTABLE.search(text)


def is_model_name(text: str) -> bool:
    """Whether a new model may have this name or version: it is as `is_id_part` says, and may be part of a path."""
    return is_id_part(text) and "/" not in text


def escape(text: str) -> str:
    """Return `text` with characters that break lines, or change the direction of text, escaped as in JSON."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def is_model_text(text: str) -> bool:
    """Whether `text` can be the name or the version of a model, wherever it comes from."""
    return 0 < len(text) <= MAX_NAME_LENGTH and not _FORBIDDEN_IN_IDS.search(text)


def is_plain_text(text: str, max_length: int = MAX_NAME_LENGTH) -> bool:
    """Whether `text` is a name of some kind: not empty, not long, and without control characters."""
    return 0 < len(text) <= max_length and not _FORBIDDEN_IN_TEXTS.search(text)


def is_dns_name(name: str) -> bool:
    """Whether names of containers and images may contain this name of a model."""
    return len(name) <= 63 and bool(_DNS_NAME.fullmatch(name))


def is_dns_subdomain(name: str) -> bool:
    """Whether `name` consists of names as of `is_dns_name`, separated by dots, and has at most the length of one."""
    return len(name) <= 63 and all(_DNS_NAME.fullmatch(part) for part in name.split("."))


def is_dns_version(version: str) -> bool:
    """Whether a version is as of `is_dns_name`, or has dots as well."""
    return len(version) <= 63 and bool(_DNS_VERSION.fullmatch(version))


# --- showing text from outside ---

_SHOWN_CHARACTERS: Final = 200


def printable(text: str, max_length: int = _SHOWN_CHARACTERS) -> str:
    """Return `text` shortened, and with unprintable characters such as line ends and escape sequences escaped."""
    shown = text[:max_length]
    if not shown.isprintable():
        shown = "".join(one if one.isprintable() else _escaped(one) for one in shown)
    return shown if len(text) <= max_length else f"{shown}... ({len(text)} characters)"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
