"""What the management frontend can be told on its command line."""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from clipper_common.constants import MANAGEMENT_PORT, REDIS_PORT


def _option(default: Any, help_text: str, type_: type = str) -> Any:
    return field(default=default, metadata={"help": help_text, "type": type_})


@dataclass(frozen=True)
class Config:
    """Each field is an option of the same name."""

    redis_ip: str = _option("localhost", "host of the Redis that holds the configuration")
    redis_port: int = _option(REDIS_PORT, "its port", int)
    host: str = _option("0.0.0.0", "address to listen on")
    port: int = _option(MANAGEMENT_PORT, "port to listen on", int)
    cluster_id: str | None = _option(None, "refuse a Redis that a cluster with another id uses")
    follow_workers: int = _option(1, "0 if query frontends keep to their --workers: then nothing can change that", int)

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Self:
        parser = ArgumentParser(prog="management_frontend", description=__doc__, allow_abbrev=False)
        for option in fields(cls):
            help_text = f"{option.metadata['help']} (default: {option.default})"
            parser.add_argument(
                f"--{option.name}", default=option.default, type=option.metadata["type"], help=help_text
            )
        return cls(**vars(parser.parse_args(arguments)))
