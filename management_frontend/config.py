"""The command-line options of the management frontend."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from clipper_common.constants import MANAGEMENT_PORT, MAX_MANAGEMENT_BODY_BYTES, REDIS_PORT
from management_frontend.origins import Origin, name_of


def _option(default: Any, help_text: str, type_: Callable[[str], Any] = str) -> Any:
    return field(default=default, metadata={"help": help_text, "type": type_})


def _origins(text: str) -> frozenset[Origin]:
    try:
        return frozenset(map(Origin.parse, _items(text)))
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _hosts(text: str) -> frozenset[str]:
    return frozenset(map(name_of, _items(text)))


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


@dataclass(frozen=True)
class Config:
    """The options of the program. Each field is an option of the same name."""

    redis_ip: str = _option("localhost", "host of the Redis that holds the configuration")
    redis_port: int = _option(REDIS_PORT, "its port", int)
    host: str = _option("0.0.0.0", "address to listen on")
    port: int = _option(MANAGEMENT_PORT, "port to listen on", int)
    cluster_id: str | None = _option(None, "refuse a Redis that a cluster with another id uses")
    follow_workers: int = _option(1, "0 if query frontends keep to their --workers: then nothing can change that", int)
    max_body_bytes: int = _option(MAX_MANAGEMENT_BODY_BYTES, "bytes of the largest body of a request", int)
    allowed_origins: frozenset[Origin] = _option(
        frozenset(), "origins whose web pages may send requests, such as https://a.example.com,http://b:8080", _origins
    )
    allowed_hosts: frozenset[str] = _option(
        frozenset(), "names by which it may be asked where it listens on a loopback address, such as a,b.local", _hosts
    )

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Self:
        parser = ArgumentParser(prog="management_frontend", description=__doc__, allow_abbrev=False)
        for option in fields(cls):
            help_text = f"{option.metadata['help']} (default: {option.default or 'none'})"
            parser.add_argument(
                f"--{option.name}", default=option.default, type=option.metadata["type"], help=help_text
            )
        return cls(**vars(parser.parse_args(arguments)))
