"""The specification of a model version, which the SDK packages, deploys and registers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from clipper_admin import arguments
from clipper_admin.resources import UNLIMITED, Resources
from clipper_common import constants
from clipper_common.errors import ClipperException

Check = Callable[[str, Any], Any]
"""Returns the value of the argument of this name as it is kept, or raises ClipperException that names it."""

_CHECK: Final = "check"
_JSON_NAME: Final = "json_name"


def _checked(check: Check) -> Mapping[str, Any]:
    return {_CHECK: check}


def _registered(check: Check, json_name: str = "") -> Mapping[str, Any]:
    """Describe a field that the management frontend is told, under the field's own name unless another is given."""
    return {_CHECK: check, _JSON_NAME: json_name}


def _as_text(what: str, value: object) -> str:
    return str(value)


def _as_it_is(what: str, value: Any) -> Any:
    return value


_micros: Final = partial(arguments.check_whole_number, least=0, most=arguments.INT32_MAX)
_number: Final = partial(arguments.check_whole_number, least=0)


@dataclass(frozen=True)
class ModelSpec:
    """A model version as it is deployed and registered; `ClipperConnection.deploy_model` says what each option means.

    `checked` makes one of what a user passed. A container manager reads the fields that it needs to start replicas, and
    the management client sends those that are registered.
    """

    name: str = field(metadata=_registered(arguments.check_text, "model_name"))
    version: str = field(metadata=_registered(_as_text, "model_version"))
    input_type: str = field(metadata=_registered(arguments.check_input_type))
    image: str = field(metadata=_registered(arguments.check_text, "container_name"))
    num_replicas: int = field(default=1, metadata=_checked(_number))
    resources: Resources = UNLIMITED
    load_seconds: float = constants.LOAD_SECONDS
    """Seconds from the start of a replica within which it must serve."""
    labels: tuple[str, ...] = field(default=(), metadata=_registered(arguments.check_labels))
    make_current: bool = field(default=True, metadata=_registered(_as_it_is))
    batch_size: int = field(default=constants.DEFAULT_BATCH_SIZE, metadata=_registered(arguments.check_batch_size))
    batch_policy: str | None = field(default=None, metadata=_registered(arguments.check_batch_policy))
    batch_delay_micros: int = field(default=0, metadata=_registered(_micros))
    max_output_bytes: int | None = field(default=None, metadata=_registered(arguments.check_size_limit))
    batch_wait: bool = field(default=True, metadata=_registered(_as_it_is))

    @classmethod
    def checked(cls, **values: Any) -> Self:
        """Return the specification with these values. Raises ClipperException for one that cannot be, naming it."""
        model = cls(**check_options(**values))
        if model.num_replicas == 0 and model.resources != UNLIMITED:
            raise ClipperException(
                "Invalid value: num_replicas=0 with resources or gpus. Replicas keep these: start at least one."
            )
        return model

    def __str__(self) -> str:
        """``name:version``, as in lists."""
        return f"{self.name}:{self.version}"

    def to_json(self) -> dict[str, Any]:
        """Return the registered fields by their names in JSON, without options that were not chosen."""
        told = [option for option in fields(self) if _JSON_NAME in option.metadata]
        values = [(option, getattr(self, option.name)) for option in told]
        return {
            option.metadata[_JSON_NAME] or option.name: value
            for option, value in values
            if value is not None or option.default is not None
        }


def check_options(**values: Any) -> dict[str, Any]:
    """Return values for fields of a `ModelSpec`. Raises ClipperException for one that cannot be, naming the field."""
    checks = {option.name: option.metadata[_CHECK] for option in fields(ModelSpec) if _CHECK in option.metadata}
    return {name: checks[name](name, value) if name in checks else value for name, value in values.items()}


@dataclass(frozen=True)
class ImageSpec:
    """The image of a model version as it is built; `ClipperConnection.build_model` says what each part means."""

    image: str
    """The full name of the image."""
    model_data_path: Path
    base_image: str
    container_registry: str | None = None
    """The registry that the image is pushed to; None if it is not pushed."""
    pkgs_to_install: tuple[str, ...] = ()
