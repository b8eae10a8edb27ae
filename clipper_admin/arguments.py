"""Checks of what users pass to the SDK: errors that name the argument, before anything is done."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from clipper_common.datatypes import InputType, is_dns_name, is_dns_version
from clipper_common.errors import ClipperException

INT32_MAX: Final = 2**31 - 1
"""The management frontend takes no larger numbers."""


def check_name(value: object) -> str:
    """A model's name that containers and image tags can carry."""
    if not isinstance(value, str) or not is_dns_name(value):
        raise ClipperException(
            f"Invalid value: name={value!r}. A model's name has at most 63 lower case letters, digits and '-', "
            "and begins and ends with a letter or digit."
        )
    return value


def check_version(value: object) -> str:
    """A version that containers and image tags can carry, as text."""
    version = str(value)
    if not is_dns_version(version):
        raise ClipperException(
            f"Invalid value: version={version!r}. A version has at most 63 lower case letters, digits, '-' and '.', "
            "and begins and ends with a letter or digit."
        )
    return version


def check_input_type(value: Any) -> str:
    """The canonical name of an input type."""
    try:
        return InputType.parse(value).canonical_name
    except ClipperException:
        names = ", ".join(kind.canonical_name for kind in InputType)
        raise ClipperException(f"Invalid value: input_type={value!r}. It should be one of {names}.") from None


def check_whole_number(what: str, value: object, least: int, most: int | None = None) -> int:
    """A whole number that is `least` or more, and not more than `most`."""
    number = None if isinstance(value, bool) or not hasattr(value, "__index__") else int(value.__index__())
    if number is None or number < least or (most is not None and number > most):
        limits = f"{least} or more" if most is None else f"from {least} to {most}"
        raise ClipperException(f"Invalid value: {what}={value!r}. It should be a whole number, {limits}.")
    return number


def check_folder(what: str, value: object) -> Path:
    """The path of a folder that exists."""
    if not isinstance(value, (str, os.PathLike)) or not Path(value).is_dir():
        raise ClipperException(f"Invalid value: {what}={value!r}. There is no such folder.")
    return Path(value)


def check_batch_size(value: object) -> int:
    """-1 (learn it) or a positive number."""
    size = check_whole_number("batch_size", value, least=-1, most=INT32_MAX)
    if size == 0:
        raise ClipperException(
            "Invalid value: batch_size=0. It should be the largest batch that a replica is given, "
            "or -1 to let Clipper learn it."
        )
    return size


def check_text(what: str, value: object) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ClipperException(f"Invalid value: {what}={value!r}. It should be a text.")
    return value


def check_texts(what: str, value: Iterable[str] | None) -> list[str]:
    """A list of texts; None is an empty one."""
    if isinstance(value, (str, bytes)) or not isinstance(value, (Iterable, type(None))):
        raise ClipperException(f"Invalid value: {what}={value!r}. It should be a list of texts.")
    return [check_text(f"an element of {what}", item) for item in value or ()]


def check_model_versions(value: Mapping[str, Iterable[Any]]) -> dict[str, list[str]]:
    """Model names with lists of versions."""
    if not isinstance(value, Mapping):
        raise ClipperException(
            f"Invalid value: model_versions_dict={value!r}. "
            "It should be a dictionary such as {'my-model': ['1', '2']}."
        )
    return {check_text("a model name", name): _check_versions(name, versions) for name, versions in value.items()}


def _check_versions(name: str, versions: object) -> list[str]:
    if isinstance(versions, (str, bytes)) or not isinstance(versions, Iterable):
        raise ClipperException(f"Invalid value: the versions of '{name}' are {versions!r}. They should be a list.")
    return [str(version) for version in versions]
