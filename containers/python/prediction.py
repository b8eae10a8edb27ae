"""Runs a model on a batch, and returns the output or the error of each input."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from clipper_common.datatypes import InputType, to_model_inputs
from clipper_common.wire import PredictRequest, Response, Views

from .isolation import Isolation, Outcome
from .suspicion import Suspicion

logger = logging.getLogger(__name__)

_MAX_ERROR_CHARACTERS: Final = 2000

Predict = Callable[[Any], list[Any]]
"""Returns a ``str`` for each input, or an `Exception` in its place, so that only this input fails."""
Errors = Sequence[BaseException | None]


class PredictionError(Exception):
    """The value that a model returned is not one output per input."""


class BatchReport(NamedTuple):
    """The monotonic times and the counts of a batch."""

    received_at: float
    parsing_at: float
    predicting_at: float
    done_at: float
    inputs: int
    errors: int


class Predictor:
    """Answers batches with the function `predict` of a model.

    If the model raises on a batch, the batch is tried again in parts, so that only those inputs fail it raises on.
    """

    def __init__(
        self, predict: Predict, input_type: InputType, report: Callable[[BatchReport], None] = lambda batch: None
    ) -> None:
        self._predict = predict
        self._input_type = input_type
        self._report = report
        self._predicting_at = 0.0
        self._suspicion = Suspicion(input_type)
        to_model_inputs(input_type, [bytes(input_type.element_bytes)])  # imports numpy now, not with the first query

    def answer(self, request: PredictRequest, received_at: float) -> Response:
        parsing_at = self._predicting_at = time.monotonic()
        response = self._answer(request)
        count, errors = len(response.failed), sum(response.failed)
        self._report(BatchReport(received_at, parsing_at, self._predicting_at, time.monotonic(), count, errors))
        return response

    def _answer(self, request: PredictRequest) -> Response:
        if request.input_type is not self._input_type:
            ours, theirs = self._input_type.canonical_name, request.input_type.canonical_name
            return _fail_all(request, PredictionError(f"this model takes {ours}, and was sent {theirs}"))
        if not self._suspicion.may_work(len(request.inputs)):
            return self._isolate(request, None)
        raised: BaseException
        try:
            outputs, errors = self._run(request.inputs)
        except PredictionError as error:
            return _fail_all(request, error)
        # A model may also raise SystemExit, CancelledError or a panic of native code, which must not end the process.
        # Neither must KeyboardInterrupt, which no signal raises where `StopRequest` handles signals.
        except BaseException as error:
            raised = error
        else:
            self._suspicion.note_outputs(request.inputs)
            return _response(request, outputs, errors)
        return self._isolate(request, raised)

    def _run(self, inputs: Views) -> tuple[list[bytes], Errors]:
        # Each time inputs are parsed again, since the model may have changed the array before it raised.
        parsed = to_model_inputs(self._input_type, inputs)
        self._predicting_at = time.monotonic()
        return encode_outputs(self._predict(parsed), len(inputs))

    def _isolate(self, request: PredictRequest, error: BaseException | None) -> Response:
        outcomes = Isolation(self._attempt, request.inputs, self._suspicion).run(error)
        errors = [None if isinstance(outcome, bytes) else outcome for outcome in outcomes]
        if error is not None and not any(errors):
            logger.warning("The model raised on a batch of %d inputs, but on none of them alone.", len(errors))
        outputs = [outcome if isinstance(outcome, bytes) else describe(outcome) for outcome in outcomes]
        return _response(request, outputs, errors)

    def _attempt(self, inputs: Views) -> list[Outcome]:
        try:
            outputs, errors = self._run(inputs)
        except PredictionError as error:
            return [error] * len(inputs)
        if not errors:
            return list(outputs)
        return [output if error is None else error for output, error in zip(outputs, errors, strict=True)]


def encode_outputs(outputs: Any, num_inputs: int) -> tuple[list[bytes], Errors]:
    """Return the outputs as bytes, and the error of each input or None; no errors if no input has failed.

    Raises `PredictionError` if the outputs are not a list of one ``str`` or `Exception` per input.
    """
    if not isinstance(outputs, list):
        raise PredictionError(f"the model returned {type_name(outputs)}, not a list of str")
    check_length(outputs, num_inputs)
    try:
        return list(map(str.encode, outputs)), ()
    except (TypeError, UnicodeEncodeError):
        return _encode_one_by_one(outputs)


def _encode_one_by_one(outputs: Sequence[Any]) -> tuple[list[bytes], Errors]:
    for index, output in enumerate(outputs):
        if not isinstance(output, str | Exception):
            raise PredictionError(f"output {index} of the model is {type_name(output)}, not str")
    errors = list(map(_error_of, outputs))
    pairs = zip(outputs, errors, strict=True)
    return [str.encode(output) if error is None else describe(error) for output, error in pairs], errors


def _error_of(output: str | Exception) -> Exception | None:
    if isinstance(output, Exception):
        return output
    try:
        str.encode(output)
    except UnicodeEncodeError as error:  # it has an unpaired surrogate
        return error
    return None


def check_length(outputs: Sequence[Any], num_inputs: int) -> None:
    """Raise `PredictionError` if there is not one output per input."""
    if len(outputs) != num_inputs:
        raise PredictionError(f"the model returned {len(outputs)} outputs for {num_inputs} inputs")


def type_name(value: Any) -> str:
    """Return the name of the type of a value, such as ``dict`` or ``numpy.float64``."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def describe(error: BaseException) -> bytes:
    """Return ``Type: message``, as it is shown to clients."""
    try:
        message = str(error)
    except Exception:
        message = "(its text cannot be made)"
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text[:_MAX_ERROR_CHARACTERS].encode(errors="replace")


def _fail_all(request: PredictRequest, error: BaseException) -> Response:
    count = len(request.inputs)
    return _response(request, [describe(error)] * count, [error] * count)


def _response(request: PredictRequest, outputs: list[bytes], errors: Errors) -> Response:
    failures = [error for error in errors if error is not None]
    if not failures:
        return Response(request.message_id, outputs, [False] * len(outputs))
    logger.error("The model failed on %d of %d inputs; the first:", len(failures), len(errors), exc_info=failures[0])
    return Response(request.message_id, outputs, [error is not None for error in errors])
