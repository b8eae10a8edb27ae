"""Runs a saved function on a batch like a container, and reports the result. The SDK starts it as a program.

``python -m clipper_containers.rehearsal FOLDER`` reads the batch from the folder of the function, and writes the report
to it. The names of the files are in `modeldir`.
"""

import contextlib
import pickle
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipper_common import modeldir
from clipper_common.datatypes import InputType, to_model_inputs
from clipper_common.modeldir import Rehearsal

from .function_container import FunctionContainer, load_or_exit
from .prediction import PredictionError, describe, encode_outputs
from .rendering import OutputError


def rehearse(container: FunctionContainer, kind: InputType, inputs: Sequence[bytes]) -> tuple[Rehearsal, Any]:
    """Run the function on a batch. Return the report, and the value that the function returned."""
    batch = to_model_inputs(kind, inputs)
    try:
        result = container.call(batch)
    except BaseException as error:
        return _failure(error), None
    try:
        texts = container.render(result, len(inputs))
        _, errors = encode_outputs(texts, len(inputs))
    except PredictionError as error:
        return Rehearsal(complaint=str(error)), None
    failure = next((error for error in errors if error is not None), None)
    if isinstance(failure, OutputError):
        return Rehearsal(complaint=str(failure)), None
    if failure is not None:  # raised by an output of a type of the user's
        return _failure(failure), None
    return Rehearsal(texts), result


def _failure(error: BaseException) -> Rehearsal:
    summary = traceback.extract_tb(error.__traceback__)
    frames = [(frame.filename, frame.lineno or 0, frame.line or "") for frame in summary]
    return Rehearsal(raised=describe(error).decode(), frames=frames)


def main(directory: str) -> None:
    """Load the function, run it on the batch, and write the report."""
    folder = Path(directory)
    function = load_or_exit(modeldir.load_function, directory)
    kind, inputs = pickle.loads((folder / modeldir.BATCH_FILE).read_bytes())
    container = FunctionContainer(function, modeldir.load_settings(folder))
    report, result = rehearse(container, InputType.parse(kind), inputs)
    # Classes of the user's are pickled by name: the notebook, which reads the file, has them.
    with contextlib.suppress(Exception):
        (folder / modeldir.RETURNED_FILE).write_bytes(pickle.dumps(result))
    modeldir.save_rehearsal(report, folder)


if __name__ == "__main__":
    main(sys.argv[1])
