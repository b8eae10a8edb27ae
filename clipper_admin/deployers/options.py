"""The arguments that all deployers share: their types, order, defaults and documentation.

Defaults and documentation are those of `ClipperConnection`, as far as its methods take the same arguments.
"""

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, ParamSpec, TypedDict, get_args

from clipper_admin.clipper_admin import ClipperConnection, Version
from clipper_common import modeldir

Parameters = ParamSpec("Parameters")

DEFAULT_IMAGE: Final = "default"


class DeployOptions(TypedDict, total=False):
    """The options of every deployer, beyond the model. Scripts may give them by position: a new one comes last."""

    base_image: str | None
    labels: Iterable[str] | None
    registry: str | None
    num_replicas: int
    batch_size: int
    pkgs_to_install: Iterable[str] | None
    make_current: bool
    resources: Mapping[str, Any] | None
    gpus: int | str | Iterable[str] | None
    batch_policy: str | None
    batch_delay_micros: int
    load_timeout: float
    inputs: str
    outputs: str
    max_output_bytes: int | None
    batch_wait: bool


class EndpointOptions(DeployOptions, total=False):
    """The options of a deployer that makes an endpoint: those of the application, too."""

    default_output: str
    version: Version
    slo_micros: int
    missing_values: bool
    max_body_bytes: int | None


def _defaults_of(method: Callable[..., None]) -> dict[str, Any]:
    parameters = inspect.signature(method).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


_DEFAULTS: Final[dict[str, Any]] = {
    **_defaults_of(ClipperConnection.register_application),
    **_defaults_of(ClipperConnection.build_and_deploy_model),
    "default_output": "None",
    "version": 1,
    "slo_micros": 3000000,
    "base_image": DEFAULT_IMAGE,
    "registry": None,
    "inputs": modeldir.ARRAY_INPUTS,
    "outputs": modeldir.JSON_OUTPUTS,
}
_DEPLOY_ORDER: Final = list(DeployOptions.__annotations__)
_LIMIT: Final = _DEPLOY_ORDER.index("max_output_bytes")
_ORDER: Final = {
    DeployOptions: _DEPLOY_ORDER,
    EndpointOptions: list(
        dict.fromkeys(
            [
                *("default_output", "version", "slo_micros", "labels", "registry", "base_image"),
                *_DEPLOY_ORDER[:_LIMIT],
                *("missing_values", "max_output_bytes", "max_body_bytes"),
                *_DEPLOY_ORDER[_LIMIT:],
            ]
        )
    ),
}
"""The options in the order of Clipper 0.4, in which scripts may give them by position."""

# --- documentation ---

_HEAD: Final = """
clipper_conn : ClipperConnection
    A connection to a running cluster.
name : str
    The model's name.
version : str
    A version that is not registered.
input_type : str
    Type of an input: ``integers``, ``floats``, ``doubles``, ``bytes`` or ``strings``."""
_INPUTS: Final = """The inputs are a numpy array of `input_type` with a row for each input, or a list if they cannot
form one array. The function returns a list, tuple or array with one output for each input: strings and numbers are
answered as they are, dictionaries, lists and arrays as JSON. The function is pickled, with the variables that it
captured and the modules of your own that it uses."""
_OPTIONS: Final = """
base_image : str, optional
    The image with the program that serves the model; by default Clipper's image for the running Python.
registry : str, optional
    The container registry to push the image to. By default the image is not pushed.
pkgs_to_install : list of str, optional
    Requirements, as for pip, of the Python packages that the function or the model needs.
inputs : str, optional
    ``array``, the default; or ``list``: the function always gets a list of one-dimensional arrays, of which
    ``numpy.asarray`` makes a two-dimensional array without a copy if they are equally long.
outputs : str, optional
    ``json``, the default; or ``text``: each output is converted by ``str()``, as in Clipper 0.4.
"""
"""The options that `ClipperConnection.deploy_model` does not have."""
_RAISES: Final = """
Raises
------
UnconnectedException
    When not connected to a cluster.
ClipperException
    When an argument is wrong, the function or the model cannot be saved, the version exists, or a replica does
    not start. Completed steps are undone."""
_ENDPOINT: Final = """
clipper_conn : ClipperConnection
    A connection to a running cluster.
name : str
    Name of the application and of the model.
default_output : str, optional
    The answer, with the reason, when there is no prediction by the deadline.
slo_micros : int, optional
    The deadline of a query in microseconds, from its receipt to its answer.
missing_values : bool, optional
    Whether floats and doubles may be null, NaN and infinite, as in ``ClipperConnection.register_application``.
max_body_bytes : int, optional
    Size of the largest body of a request in bytes, as in ``ClipperConnection.register_application``."""
_ENDPOINT_RAISES: Final = """
Raises
------
UnconnectedException
    When not connected to a cluster.
ClipperException
    When an argument is wrong or a step fails. Completed steps are undone."""


def _described_in(text: str) -> dict[str, str]:
    """Return the entries of a docstring's parameters by their names."""
    return {entry[1]: entry[0] for entry in re.finditer(r"^(\w+) : .*\n(?:    .*\n)+", text, re.MULTILINE)}


_DESCRIBED: Final = _described_in(inspect.getdoc(ClipperConnection.deploy_model) or "") | _described_in(_OPTIONS)
_NAMES_WIDTH: Final = 100
_DESCRIBED_OF_ENDPOINTS: Final = _described_in(f"{_ENDPOINT}\n")


def _documentation(function: Callable[..., None], signature: inspect.Signature) -> str:
    """Return the docstring of a deployer, in which the texts that all share replace the names in braces."""
    text = inspect.cleandoc(function.__doc__ or "")  # python -OO removes docstrings
    own = inspect.signature(function).parameters
    options = [name for name in signature.parameters if name not in own]
    common = {
        "head": _HEAD,
        "inputs": _INPUTS,
        "options": "".join(_DESCRIBED.get(name, "") for name in options) + _RAISES,
        "endpoint": _ENDPOINT,
        "endpoint_options": _as_there(name for name in options if name not in _DESCRIBED_OF_ENDPOINTS)
        + _ENDPOINT_RAISES,
    }
    for name, shared in common.items():
        text = text.replace(f"{{{name}}}", shared.strip())
    return text


def _as_there(names: Iterable[str]) -> str:
    lines = textwrap.wrap(", ".join(names), _NAMES_WIDTH)
    return "".join(f"{line.rstrip(',')}\n    As in the function that deploys.\n" for line in lines)


# --- signatures ---


def with_options(
    *, own_after: str = "", **defaults: Any
) -> Callable[[Callable[Parameters, None]], Callable[Parameters, None]]:
    """Give a function that ends with ``**options: Unpack[DeployOptions]`` an argument for each of the options.

    Its signature and its docstring name them all, and they can be given by position. Keyword-only arguments of its
    own stand after the one that `own_after` names. `defaults` replace the common ones.
    """

    def decorate(function: Callable[Parameters, None]) -> Callable[Parameters, None]:
        signature = _signature(function, own_after, _DEFAULTS | defaults)

        @functools.wraps(function)
        def called(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            every: Callable[..., None] = function
            every(**bound.arguments)

        called.__signature__ = signature  # type: ignore[attr-defined]
        called.__doc__ = _documentation(function, signature)
        return called

    return decorate


def _signature(function: Callable[..., None], own_after: str, defaults: Mapping[str, Any]) -> inspect.Signature:
    signature = inspect.signature(function)
    *head, options = signature.parameters.values()
    (kind,) = get_args(options.annotation)
    types = DeployOptions.__annotations__ | kind.__annotations__
    tail = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=defaults[name], annotation=types[name])
        for name in _ORDER[kind]
        if name not in signature.parameters  # the deployer for ONNX has another argument `inputs`
    ]
    own = [parameter for parameter in head if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    head = head[: len(head) - len(own)]
    place = 1 + _ORDER[kind].index(own_after) if own else 0
    tail[place:place] = [parameter.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for parameter in own]
    return signature.replace(parameters=[*head, *tail])
