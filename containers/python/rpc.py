"""The interface for authors of model containers.

::

    import rpc

    class Doubler(rpc.ModelContainerBase):
        def predict_doubles(self, inputs):
            return [str(2 * x.sum()) for x in inputs]

    rpc.RPCService().start(Doubler())
"""

import logging
import os
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from clipper_common import constants, wire
from clipper_common.datatypes import InputType, ModelId
from clipper_common.errors import ClipperException
from clipper_common.rpc_client import tcp_address

from .prediction import BatchReport, Predict, PredictionError, Predictor
from .session import Session
from .stopping import StopRequest, end_now, end_within

__all__ = [
    "InputType",
    "ModelContainerBase",
    "PredictionError",
    "RPCService",
    "input_type_to_string",
    "string_to_input_type",
]

logger = logging.getLogger(__name__)

_READY_TEXT: Final = "READY"
_LOOPBACK_HOSTS: Final = ("127.0.0.1", "localhost")
_TYPE_NAMES: Final = {
    InputType.BYTES: "bytes",
    InputType.INTS: "ints",
    InputType.FLOATS: "floats",
    InputType.DOUBLES: "doubles",
    InputType.STRINGS: "string",
}


def string_to_input_type(input_str: str) -> InputType:
    """Return the input type with a name.

    Parameters
    ----------
    input_str : str
        Any accepted spelling, for example ``doubles`` or ``d``.

    Raises
    ------
    ClipperException
        If no input type has that name.
    """
    return InputType.parse(input_str)


def input_type_to_string(input_type: int) -> str:
    """Return the name of an input type: bytes, ints, floats, doubles or string."""
    return _TYPE_NAMES[InputType(input_type)]


class ModelContainerBase:
    """The base class of models. Override the method of the input type that the model takes.

    Each method gets a batch of inputs and returns a list of ``str``, one for each input, in their order. An exception
    in the list fails its input only. An exception that is raised is sent to the clients, and the container goes on; if
    a batch of several inputs raised it, the batch is tried again in parts.
    """

    def predict_ints(self, inputs: Any) -> list[str]:
        """Predict for an array of int32, shape (inputs, elements); a list of arrays if lengths differ."""
        raise self._not_overridden("predict_ints")

    def predict_floats(self, inputs: Any) -> list[str]:
        """Predict for an array of float32, shape (inputs, elements); a list of arrays if lengths differ."""
        raise self._not_overridden("predict_floats")

    def predict_doubles(self, inputs: Any) -> list[str]:
        """Predict for an array of float64, shape (inputs, elements); a list of arrays if lengths differ."""
        raise self._not_overridden("predict_doubles")

    def predict_bytes(self, inputs: Any) -> list[str]:
        """Predict for an array of int8, shape (inputs, elements); a list of arrays if lengths differ."""
        raise self._not_overridden("predict_bytes")

    def predict_strings(self, inputs: list[str]) -> list[str]:
        """Predict for a list of ``str``."""
        raise self._not_overridden("predict_strings")

    def _not_overridden(self, method: str) -> Exception:
        return NotImplementedError(f"{type(self).__name__} has no {method}, which its input type needs")


class RPCService:
    """Connects a model to Clipper.

    Parameters
    ----------
    collect_metrics : bool, optional
        Whether to measure, and to serve the metrics of this process to Prometheus.
    read_config : bool, optional
        Whether to read the attributes from environment variables, which Clipper's container managers set. If one is
        missing or invalid, the process prints a message and exits with 1.

    Attributes
    ----------
    model_name, model_version : str
        The model version that this process is a replica of.
    model_path : str
        The folder with the model's files.
    input_type : str
        The name of the type of the model's inputs.
    host : str
        The host of the query frontend.
    port : int
        The RPC port of the query frontend.
    metric_port : int
        The port on which to serve metrics; 0 to serve none.
    """

    def __init__(self, collect_metrics: bool = True, read_config: bool = True) -> None:
        self.collect_metrics = collect_metrics
        self.model_name = ""
        self.model_version = ""
        self.model_path = ""
        self.input_type = "doubles"
        self.host = "127.0.0.1"
        self.port: int = constants.RPC_PORT
        self.metric_port: int = constants.METRIC_PORT
        self._ready_file: Path | None = None
        self._session: Session | None = None
        if read_config:
            self._read_environment()

    def _read_environment(self) -> None:
        self.model_name = _required(constants.ENV_MODEL_NAME)
        self.model_version = _required(constants.ENV_MODEL_VERSION)
        self.model_path = os.environ.get(constants.ENV_MODEL_PATH, "")
        self.input_type = os.environ.get(constants.ENV_INPUT_TYPE) or self.input_type
        self.host = os.environ.get(constants.ENV_RPC_HOST) or self.host
        self.port = _port(constants.ENV_RPC_PORT, self.port)
        self.metric_port = _port(constants.ENV_METRIC_PORT, self.metric_port)
        ready_file = os.environ.get(constants.ENV_READY_FILE)
        self._ready_file = Path(ready_file) if ready_file else None
        try:
            InputType.parse(self.input_type)
        except ClipperException as error:
            _exit(f"{constants.ENV_INPUT_TYPE}: {error}. One of bytes, ints, floats, doubles, strings is.")

    def get_model_path(self) -> str:
        """Return the folder with the model's files. Exits if it is not known."""
        return self.model_path or _required(constants.ENV_MODEL_PATH)

    def get_input_type(self) -> str:
        """Return the name of the type of the model's inputs, as it was given."""
        return self.input_type

    def get_event_history(self) -> list[tuple[float, int]]:
        """Return the last messages sent and received.

        Returns
        -------
        list of tuple
            Seconds since 1970, and a code: 1 heartbeat sent, 2 received, 3 metadata sent, 5 answer sent, 6 batch
            received.
        """
        return [(when, int(event)) for when, event in self._session.events.copy()] if self._session else []

    def start(self, model: ModelContainerBase) -> None:
        """Serve `model`, until the process is asked to stop (SIGTERM or SIGINT)."""
        logging.basicConfig(level=logging.INFO, format=constants.LOG_FORMAT, datefmt=constants.LOG_DATE_FORMAT)
        stop = StopRequest()
        if threading.current_thread() is threading.main_thread():
            stop.listen_to_signals()
        self._session = self._make_session(model, stop)
        self._set_ready(False)
        try:
            self._session.run()
        finally:
            self._set_ready(False)
        if stop.requested_at is not None:
            end_within(_exit_seconds())
            stop.tell_model()

    def _make_session(self, model: ModelContainerBase, stop: StopRequest) -> Session:
        input_type = InputType.parse(self.input_type)
        # Chosen here, not when this module is imported: the process may be forked before it serves.
        replica_id, key = os.environ.get(constants.ENV_REPLICA_ID) or uuid.uuid4().hex, uuid.uuid4().hex
        model_id = ModelId(self.model_name, self.model_version)
        metadata = wire.Metadata(model_id, input_type, wire.RPC_VERSION_4, replica_id, key, measures_turns=True)
        predict: Predict = getattr(model, f"predict_{input_type.name.lower()}")
        predictor = Predictor(predict, input_type, self._start_metrics())
        address = tcp_address(self.host, self.port)
        logger.info("Serving %s, input type %s, for %s.", metadata.model_id, input_type.canonical_name, address)
        return Session(address, metadata, predictor.answer, stop, lambda: self._set_ready(True), self._abandon)

    def _abandon(self) -> None:
        self._set_ready(False)
        end_now("Asked to stop while the model computes what nobody waits for any more: it is cut off.")

    def _start_metrics(self) -> Callable[[BatchReport], None]:
        if not (self.collect_metrics and self.metric_port):
            return lambda batch: None
        from . import metrics

        # With a frontend on the loopback interface, the metrics are served on it, too.
        metrics.serve(self.metric_port, "127.0.0.1" if self.host in _LOOPBACK_HOSTS else "0.0.0.0")
        return metrics.METRICS.observe

    def _set_ready(self, ready: bool) -> None:
        if self._ready_file is None:
            return
        try:
            if ready:
                self._ready_file.write_text(_READY_TEXT)
            else:
                self._ready_file.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("Nobody can see in %s whether this container is ready: %s", self._ready_file, error)


def _required(name: str) -> str:
    return os.environ.get(name) or _exit(
        f"The environment variable {name} is not set. Clipper's container managers set it; by hand, give it a value."
    )


def _port(name: str, default: int) -> int:
    """Return the port number in an environment variable; 0 if it is set and empty. Exits if it is invalid."""
    text = os.environ.get(name, str(default)).strip() or "0"
    if text.isdecimal() and int(text) < 1 << 16:
        return int(text)
    _exit(f"{name}={text} is not a port number.")


def _exit_seconds() -> float:
    """Return the seconds that a stopped process may take to exit. Read late, since the model may set the variable."""
    text = os.environ.get(constants.ENV_EXIT_SECONDS, "")
    try:
        return max(0.0, float(text)) if text else constants.EXIT_SECONDS
    except ValueError:
        logger.warning("%s=%s is no number of seconds", constants.ENV_EXIT_SECONDS, text)
        return constants.EXIT_SECONDS


def _exit(reason: str) -> NoReturn:
    sys.exit(f"This model container cannot start. {reason}")
