"""Deploys PyTorch models."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from clipper_admin import images
from clipper_admin.clipper_admin import ClipperConnection, Version
from clipper_admin.deployers.deployer_utils import deploy_function, explained, make_endpoint, save_pickle
from clipper_admin.deployers.options import DeployOptions, EndpointOptions, with_options
from clipper_common import modeldir
from clipper_common.errors import ClipperException
from clipper_common.modeldir import PredictFunction

if TYPE_CHECKING:
    import torch


@with_options()
def create_endpoint(
    clipper_conn: ClipperConnection,
    name: str,
    input_type: str,
    func: PredictFunction,
    pytorch_model: "torch.nn.Module",
    **options: Unpack[EndpointOptions],
) -> None:
    """Register an application, deploy a PyTorch module as a model of the same name, and link the two.

    Parameters
    ----------
    {endpoint}
    input_type, func, pytorch_model
        As in `deploy_pytorch_model`.
    {endpoint_options}
    """
    make_endpoint(deploy_pytorch_model, clipper_conn, name, input_type, func, pytorch_model, **options)


@with_options()
def deploy_pytorch_model(
    clipper_conn: ClipperConnection,
    name: str,
    version: Version,
    input_type: str,
    func: PredictFunction,
    pytorch_model: "torch.nn.Module",
    **options: Unpack[DeployOptions],
) -> None:
    """Deploy a PyTorch module, and a function that predicts with it, as a model.

    Parameters
    ----------
    {head}
    func : function
        Called as ``func(model, inputs)``, in inference mode.
        {inputs}
    pytorch_model : torch.nn.Module
        The module; it stays as it is. Each replica has a copy of its state, on its first GPU if it has one, and in
        evaluation mode.
    {options}

    Examples
    --------
    ::

        def predict(model, inputs):
            return model(torch.as_tensor(inputs)).argmax(dim=1).tolist()

        deploy_pytorch_model(clipper_conn, "digits", 1, "floats", func=predict, pytorch_model=net)
    """
    deploy_function(
        clipper_conn,
        name,
        version,
        input_type,
        func,
        images.PYTORCH,
        lambda folder: _save(pytorch_model, folder),
        **options,
    )


def _save(model: "torch.nn.Module", folder: Path) -> set[str]:
    with explained("pytorch_model", "PyTorch cannot be imported"):
        import torch

    if not isinstance(model, torch.nn.Module):
        raise ClipperException(f"Invalid value: pytorch_model={model!r}. It should be a torch.nn.Module.")
    with explained("pytorch_model", "The module cannot be saved"):
        if any(tensor.device.type != "cpu" for tensor in _tensors(model.state_dict())):
            model = copy.deepcopy(model).cpu()  # where it is served, there may be no GPU
        weights = folder / modeldir.PYTORCH_WEIGHTS_FILE
        torch.save(model.state_dict(), weights)
    plain = {torch.Tensor, torch.nn.Parameter}
    if not plain.issuperset(map(type, model.state_dict().values())):
        with explained("pytorch_model", "Its state_dict holds what PyTorch does not load (weights_only=True)"):
            torch.load(weights, mmap=True, weights_only=True)
    return save_pickle(model, "pytorch_model", folder / modeldir.PYTORCH_MODEL_FILE)


def _tensors(state: Any) -> "Iterator[torch.Tensor]":
    """Yield the tensors in a module's state, which may hold anything else: quantised modules have types and tuples."""
    import torch

    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple | set):
        for value in state:
            yield from _tensors(value)
