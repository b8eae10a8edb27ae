"""Serves a PyTorch module: ``func(model, inputs)``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipper_common import modeldir

from .function_container import serve


def load(folder: Path) -> Callable[[Any], Any]:
    """On the first GPU if there is one. The function finds its device by ``next(model.parameters()).device``."""
    import torch  # here, so that its absence is explained

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = modeldir.load_pickle(folder / modeldir.PYTORCH_MODEL_FILE)
    model.load_state_dict(torch.load(folder / modeldir.PYTORCH_WEIGHTS_FILE, map_location=device, weights_only=True))
    model.to(device).eval()
    function = modeldir.load_function(folder)

    def predict(inputs: Any) -> Any:
        with torch.inference_mode():  # of a thread, so it must be said where the function runs
            return function(model, inputs)

    return predict


if __name__ == "__main__":
    serve(load)
