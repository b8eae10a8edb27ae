"""Serves a PyTorch module: ``func(model, inputs)``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipper_common import modeldir

from .function_container import serve


def load(folder: Path) -> Callable[[Any], Any]:
    """Load the model onto the first GPU, or the CPU if there is none.

    The function finds the device by ``next(model.parameters()).device``.
    """
    import torch  # here, so that a failure is reported by `load_or_exit`

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = modeldir.load_pickle(folder / modeldir.PYTORCH_MODEL_FILE)
    model.load_state_dict(torch.load(folder / modeldir.PYTORCH_WEIGHTS_FILE, map_location=device, weights_only=True))
    model.to(device).eval()
    function = modeldir.load_function(folder)

    def predict(inputs: Any) -> Any:
        with torch.inference_mode():  # a setting of the thread, so it is made in the one that predicts
            return function(model, inputs)

    return predict


if __name__ == "__main__":
    serve(load)
