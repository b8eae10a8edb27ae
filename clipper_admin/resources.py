"""The limits of a replica, in memory, processors and GPUs, and the check of what users pass for them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from clipper_admin.arguments import check_text, check_whole_number
from clipper_common.errors import ClipperException

ALL_GPUS: Final = -1

_MEMORY: Final = re.compile(r"(\d+(?:\.\d+)?)([kmgt]?)i?b?", re.IGNORECASE)
_UNITS: Final = " kmgt"


@dataclass(frozen=True)
class Resources:
    """The limits of each replica of a model version; None is no limit."""

    memory_bytes: int | None = None
    cpus: float | None = None
    gpus: int | tuple[str, ...] | None = None
    """A number of GPUs, `ALL_GPUS`, or a list of identifiers."""


UNLIMITED: Final = Resources()


def check_resources(resources: Mapping[str, Any] | None, gpus: Any) -> Resources:
    """Return the limits of a replica, given ``{"memory": "512m", "cpus": 1.5}`` and a number of GPUs, "all" or a
    list."""
    if not isinstance(resources, (Mapping, type(None))) or (resources or {}).keys() - {"memory", "cpus"}:
        raise ClipperException(
            f"Invalid value: resources={resources!r}. It should be a dictionary with 'memory', 'cpus' or both, "
            "such as {'memory': '512m', 'cpus': 1.5}."
        )
    limits = resources or {}
    return Resources(_check_memory(limits.get("memory")), _check_cpus(limits.get("cpus")), _check_gpus(gpus))


def _check_memory(value: Any) -> int | None:
    if value is None:
        return None
    match = _MEMORY.fullmatch(str(value).strip()) if isinstance(value, (int, str)) else None
    if not match or not (size := int(float(match[1]) * 1024 ** _UNITS.index(match[2].lower() or " "))):
        raise ClipperException(
            f"Invalid value: memory={value!r}. It should be a number of bytes, or a text such as '512m' or '2g'."
        )
    return size


def _check_cpus(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise ClipperException(f"Invalid value: cpus={value!r}. It should be a number such as 2 or 0.5.")
    return float(value)


def _check_gpus(value: Any) -> int | tuple[str, ...] | None:
    if value is None or value == "all":
        return ALL_GPUS if value else None
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return tuple(check_text("an element of gpus", item) for item in map(_as_text, value)) or None
    try:
        return check_whole_number("gpus", value, least=0) or None
    except ClipperException as error:
        raise ClipperException(f"{error} Or 'all', or a list of identifiers.") from None


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) else value
