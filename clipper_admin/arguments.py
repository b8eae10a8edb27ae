"""Checks of the arguments of the SDK, before anything is done. Errors name the argument."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from clipper_admin.frontend_options import BOOLEAN_FLAGS, MGMT_FRONTEND_FLAGS, QUERY_FRONTEND_FLAGS, FrontendOptions
from clipper_common.constants import MAX_WORKERS, SIZE_LIMITS
from clipper_common.datatypes import BatchPolicy, InputType, is_dns_subdomain, is_dns_version
from clipper_common.errors import ClipperException

INT32_MAX: Final = 2**31 - 1
"""The largest number that the management frontend accepts."""


def check_name(value: object) -> str:
    """Return a model's name, if names of containers and images may contain it."""
    if not isinstance(value, str) or not is_dns_subdomain(value):
        raise ClipperException(
            f"Invalid value: name={value!r}. A model's name has at most 63 lower case letters, digits, '-' and single "
            "'.', and each part between dots begins and ends with a letter or digit."
        )
    return value


def check_version(value: object) -> str:
    """Return a version as a string, if names of containers and tags of images may contain it."""
    version = str(value)
    if not is_dns_version(version):
        raise ClipperException(
            f"Invalid value: version={version!r}. A version has at most 63 lower case letters, digits, '-' and '.', "
            "and begins and ends with a letter or digit."
        )
    return version


def check_input_type(what: str, value: Any) -> str:
    """The canonical name of an input type."""
    try:
        return InputType.parse(value).canonical_name
    except ClipperException:
        names = ", ".join(kind.canonical_name for kind in InputType)
        raise ClipperException(f"Invalid value: {what}={value!r}. It should be one of {names}.") from None


def check_whole_number(what: str, value: object, least: int, most: int | None = None) -> int:
    """A whole number that is `least` or more, and not more than `most`."""
    number = None if isinstance(value, bool) or not hasattr(value, "__index__") else int(value.__index__())
    if number is None or number < least or (most is not None and number > most):
        limits = f"{least} or more" if most is None else f"from {least} to {most}"
        raise ClipperException(f"Invalid value: {what}={value!r}. It should be a whole number, {limits}.")
    return number


def check_load_timeout(value: object) -> float:
    """Return a time limit for loading a model, in seconds."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < float(value) <= INT32_MAX:  # type: ignore[arg-type]
        raise ClipperException(
            f"Invalid value: load_timeout={value!r}. It should be a positive number of seconds: how long replicas may "
            "take to load the model."
        )
    return float(value)  # type: ignore[arg-type]


def check_folder(what: str, value: object) -> Path:
    """The path of a folder that exists."""
    if not isinstance(value, (str, os.PathLike)) or not Path(value).is_dir():
        raise ClipperException(f"Invalid value: {what}={value!r}. There is no such folder.")
    return Path(value)


def check_batch_size(what: str, value: object) -> int:
    """-1 (learn it) or a positive number."""
    size = check_whole_number(what, value, least=-1, most=INT32_MAX)
    if size == 0:
        raise ClipperException(
            f"Invalid value: {what}=0. It should be the largest batch that a replica is given, "
            "or -1 to let Clipper learn it."
        )
    return size


def check_batch_policy(what: str, value: object) -> str | None:
    """The name of a batch policy, or None."""
    if value is not None and value not in list(BatchPolicy):
        names = ", ".join(BatchPolicy)
        raise ClipperException(f"Invalid value: {what}={value!r}. It should be one of {names}.")
    return None if value is None else str(value)


def check_size_limit(what: str, value: object) -> int | None:
    """Bytes, or None for the usual limit."""
    return None if value is None else check_whole_number(what, value, least=SIZE_LIMITS[0], most=SIZE_LIMITS[-1])


def check_text(what: str, value: object) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ClipperException(f"Invalid value: {what}={value!r}. It should be a text.")
    return value


def check_json(what: str, value: Any) -> Any:
    """A value that JSON can hold, which has neither NaN nor infinities."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ClipperException(
            f"Invalid value: {what}={value!r}. It should consist of texts, finite numbers, lists and dictionaries."
        ) from None
    return value


def check_redis_ip(value: object) -> str | None:
    """The host of a Redis, an IPv6 address without the brackets that it has in URLs; None for the cluster's own."""
    if value is None or value == "":
        return None
    host = check_text("redis_ip", value)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if any(character in host for character in "/[]") or _HOST_AND_PORT.fullmatch(host):
        raise ClipperException(
            f"Invalid value: redis_ip={value!r}. It should be the name or address of a host; its port is redis_port."
        )
    return host


def check_texts(what: str, value: Iterable[str] | None) -> list[str]:
    """A list of texts; None is an empty one."""
    if isinstance(value, (str, bytes)) or not isinstance(value, (Iterable, type(None))):
        raise ClipperException(f"Invalid value: {what}={value!r}. It should be a list of texts.")
    return [check_text(f"an element of {what}", item) for item in value or ()]


def check_labels(what: str, value: Iterable[str] | None) -> tuple[str, ...]:
    """A list of texts, as it is kept."""
    return tuple(check_texts(what, value))


def check_packages(value: Iterable[str] | None) -> list[str]:
    """Return requirements for pip, which must not be options of pip."""
    packages = check_texts("pkgs_to_install", value)
    for package in packages:
        if not package.strip() or package.strip().startswith("-"):
            raise ClipperException(f"pkgs_to_install holds {package!r}, which is no package but an option of pip")
    return packages


_HOST_AND_PORT: Final = re.compile(r"[^:]*:\d+|\[.*\]:\d+")


def check_model_versions(value: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return model names with lists of versions. A single version stands for a list of one."""
    if not isinstance(value, Mapping):
        raise ClipperException(
            f"Invalid value: model_versions_dict={value!r}. "
            "It should be a dictionary such as {'my-model': ['1', '2']}."
        )
    return {check_text("a model name", name): _check_versions(name, versions) for name, versions in value.items()}


def _check_versions(name: str, versions: object) -> list[str]:
    if isinstance(versions, str | int | float):
        return [str(versions)]
    if isinstance(versions, bytes) or not isinstance(versions, Iterable):
        raise ClipperException(f"Invalid value: the versions of '{name}' are {versions!r}. They should be a list.")
    return [str(version) for version in versions]


_positive: Final = partial(check_whole_number, least=1)
_FRONTEND_CHECKS: Final[Mapping[str, Callable[[str, object], str | int]]] = {
    "query_frontend_image": check_text,
    "mgmt_frontend_image": check_text,
    "frontend_exporter_image": check_text,
    "cache_size": partial(check_whole_number, least=0),
    "qf_http_thread_pool_size": _positive,
    "qf_http_timeout_request": _positive,
    "qf_http_timeout_content": _positive,
    "num_frontend_replicas": _positive,
    "workers": partial(check_whole_number, least=1, most=MAX_WORKERS),
}


def check_frontend_options(
    query_frontend_flags: Mapping[str, int] | None, mgmt_frontend_flags: Mapping[str, Any] | None, **values: Any
) -> FrontendOptions:
    """Return the options with these values. Raises ClipperException for one that cannot be, naming it."""
    query_flags = _check_flags("query_frontend_flags", query_frontend_flags, QUERY_FRONTEND_FLAGS)
    mgmt_flags = _check_flags("mgmt_frontend_flags", mgmt_frontend_flags, MGMT_FRONTEND_FLAGS)
    checked: dict[str, Any] = {name: _FRONTEND_CHECKS[name](name, value) for name, value in values.items()}
    return FrontendOptions(
        **checked,
        query_frontend_flags={name: _check_flag(name, value) for name, value in query_flags.items()},
        mgmt_frontend_flags={
            name: ",".join(check_texts(f"mgmt_frontend_flags[{name!r}]", value)) for name, value in mgmt_flags.items()
        },
    )


def _check_flag(name: str, value: object) -> int:
    if isinstance(value, bool) and name in BOOLEAN_FLAGS:
        return int(value)
    return check_whole_number(f"query_frontend_flags[{name!r}]", value, least=0)


def _check_flags(what: str, flags: Mapping[str, Any] | None, known: tuple[str, ...]) -> Mapping[str, Any]:
    if flags is None:
        return {}
    if not isinstance(flags, Mapping):
        raise ClipperException(f"Invalid value: {what}={flags!r}. It should be a dict of flags and their values.")
    for name in flags:
        if name not in known:
            raise ClipperException(f"Invalid value: {what} has {name!r}. Flags that can be set: {', '.join(known)}.")
    return flags
