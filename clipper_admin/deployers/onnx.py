"""Deploys models as ONNX graphs, which onnxruntime serves: no PyTorch is needed where they run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

from clipper_admin import images
from clipper_admin.clipper_admin import ClipperConnection, Version
from clipper_admin.deployers.deployer_utils import deploy_function, explained, make_endpoint, quiet
from clipper_admin.deployers.options import DeployOptions, EndpointOptions, with_options
from clipper_common import modeldir
from clipper_common.errors import ClipperException
from clipper_common.modeldir import PredictFunction

if TYPE_CHECKING:
    import torch

_BACKENDS: Final = ("caffe2", "onnxruntime")


@with_options(own_after="num_replicas", base_image=None)
def create_pytorch_endpoint(  # type: ignore[misc]  # its `inputs` are others
    clipper_conn: ClipperConnection,
    name: str,
    input_type: str,
    inputs: Any,
    func: PredictFunction,
    pytorch_model: "torch.nn.Module",
    *,
    onnx_backend: str = "caffe2",
    **options: Unpack[EndpointOptions],
) -> None:
    """Register an application, deploy a PyTorch module as a model of the same name, and link the two.

    Parameters
    ----------
    {endpoint}
    input_type, inputs, func, pytorch_model, onnx_backend
        As in `deploy_pytorch_model`.
    {endpoint_options}
    """
    make_endpoint(
        deploy_pytorch_model,
        clipper_conn,
        name,
        input_type,
        inputs,
        func,
        pytorch_model,
        onnx_backend=onnx_backend,
        **options,
    )


@with_options(own_after="num_replicas", base_image=None)
def deploy_pytorch_model(  # type: ignore[misc]  # its `inputs` are others
    clipper_conn: ClipperConnection,
    name: str,
    version: Version,
    input_type: str,
    inputs: Any,
    func: PredictFunction,
    pytorch_model: "torch.nn.Module",
    *,
    onnx_backend: str = "caffe2",
    **options: Unpack[DeployOptions],
) -> None:
    """Export a PyTorch module to ONNX and deploy it, with a function that predicts with the graph, as a model.

    Parameters
    ----------
    {head}
    inputs : torch.Tensor or tuple of torch.Tensor
        An example of what the module is called with. Its first dimension is the batch, which may have any size later.
    func : function
        Called as ``func(model, inputs)``. ``model.run(array)`` returns a list of the graph's outputs.
        {inputs}
    pytorch_model : torch.nn.Module
        The module to export.
    onnx_backend : str, optional
        ``"caffe2"`` or ``"onnxruntime"``, the default of Clipper 0.4 and its successor. Both are served by onnxruntime.
    {options}

    Examples
    --------
    ::

        def predict(model, inputs):
            return model.run(inputs)[0].argmax(axis=1).tolist()

        deploy_pytorch_model(clipper_conn, "digits", 1, "floats", torch.zeros(1, 64), predict, net)
    """
    if onnx_backend not in _BACKENDS:
        raise ClipperException(
            f"Invalid value: onnx_backend={onnx_backend!r}. It should be one of {', '.join(_BACKENDS)}."
        )
    deploy_function(
        clipper_conn,
        name,
        version,
        input_type,
        func,
        images.ONNX,
        lambda folder: _export(pytorch_model, inputs, folder),
        **options,
    )


def _export(model: "torch.nn.Module", inputs: Any, folder: Path) -> tuple[str, ...]:
    with explained("pytorch_model", "PyTorch cannot be imported"):
        import torch

    if not isinstance(model, torch.nn.Module):
        raise ClipperException(f"Invalid value: pytorch_model={model!r}. It should be a torch.nn.Module.")
    examples = inputs if isinstance(inputs, tuple) else (inputs,)
    with (
        explained("pytorch_model, inputs", "The module cannot be exported to ONNX"),
        _evaluating(model),
        quiet("torch.onnx"),
    ):
        torch.onnx.export(
            model,
            examples,
            folder / modeldir.ONNX_FILE,
            dynamo=True,
            dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in examples),
            verbose=False,
        )
    return ("onnxruntime",)


@contextmanager
def _evaluating(model: "torch.nn.Module") -> Iterator[None]:
    """The module as it predicts; afterwards it is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
