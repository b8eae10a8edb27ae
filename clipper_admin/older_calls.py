"""Positional calls in the order of documents older than Clipper 0.4: recognised, and refused with the keyword to use.

Clipper 0.4 put new parameters in front of, or between, those of three callables. A script written for older
documents would start a cluster that is *named* like an address.
"""

import ipaddress
import re
from typing import Final

from clipper_admin.arguments import check_whole_number
from clipper_common.errors import ClipperException

_HOST_AND_PORT: Final = re.compile(r".+:\d+/?")


def check_manager_call(manager: str, older_first: str, cluster_name: object, texts: dict[str, object]) -> None:
    """Raise ClipperException for the arguments of a container manager in the older order.

    `older_first` is the parameter that came first in older documents, and `texts` are arguments that must be texts
    (or None) and follow `cluster_name`.
    """
    hint = (
        f"The first parameter of {manager} is cluster_name since Clipper 0.4; in older documents it is "
        f"{older_first}. Pass the arguments by keyword"
    )
    if cluster_name is None or (isinstance(cluster_name, str) and _is_address(cluster_name)):
        raise ClipperException(
            f"Invalid value: cluster_name={cluster_name!r}, which is no name but "
            f"{'nothing' if cluster_name is None else 'an address'}. {hint}: "
            f"{manager}({older_first}={cluster_name!r})."
        )
    for what, value in texts.items():
        if not isinstance(value, str | None):
            raise ClipperException(f"Invalid value: {what}={value!r}. It should be a text. {hint}.")


def check_start_call(exporter_image: object, cache_size: object) -> None:
    """Raise ClipperException for ``start_clipper(query_image, mgmt_image, cache_size, num_frontend_replicas)``."""
    if isinstance(exporter_image, int):
        replicas = f", num_frontend_replicas={cache_size}" if isinstance(cache_size, int) and cache_size < 1000 else ""
        raise ClipperException(
            f"Invalid value: frontend_exporter_image={exporter_image!r}. It should be a text. The third parameter of "
            "start_clipper is frontend_exporter_image since Clipper 0.4; in older documents it is cache_size, and the "
            f"fourth num_frontend_replicas. Pass them by keyword: start_clipper(..., cache_size={exporter_image!r}"
            f"{replicas})."
        )


def check_port(what: str, value: object) -> int:
    """The number of a port, also from a text, as `connect` of Clipper 0.4 left it; 0 means any that is free."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    return check_whole_number(what, number, least=0, most=65535)


def _is_address(text: str) -> bool:
    if text == "localhost" or "://" in text or _HOST_AND_PORT.fullmatch(text):
        return True
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True
