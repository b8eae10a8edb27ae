"""Deploys MXNet modules."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from clipper_admin import images
from clipper_admin.clipper_admin import ClipperConnection, Version
from clipper_admin.deployers.deployer_utils import deploy_function, explained, make_endpoint
from clipper_admin.deployers.options import DeployOptions, EndpointOptions, with_options
from clipper_common import modeldir
from clipper_common.modeldir import PredictFunction

if TYPE_CHECKING:
    import mxnet


@with_options()
def create_endpoint(
    clipper_conn: ClipperConnection,
    name: str,
    input_type: str,
    func: PredictFunction,
    mxnet_model: "mxnet.mod.Module",
    mxnet_data_shapes: Sequence[Any],
    **options: Unpack[EndpointOptions],
) -> None:
    """Register an application, deploy an MXNet module as a model of the same name, and link the two.

    Parameters
    ----------
    {endpoint}
    input_type, func, mxnet_model, mxnet_data_shapes
        As in `deploy_mxnet_model`.
    {endpoint_options}
    """
    make_endpoint(deploy_mxnet_model, clipper_conn, name, input_type, func, mxnet_model, mxnet_data_shapes, **options)


@with_options()
def deploy_mxnet_model(
    clipper_conn: ClipperConnection,
    name: str,
    version: Version,
    input_type: str,
    func: PredictFunction,
    mxnet_model: "mxnet.mod.Module",
    mxnet_data_shapes: Sequence[Any],
    **options: Unpack[DeployOptions],
) -> None:
    """Deploy an MXNet module, and a function that predicts with it, as a model.

    Parameters
    ----------
    {head}
    func : function
        Called as ``func(model, inputs)``.
        {inputs}
    mxnet_model : mxnet.mod.Module
        A module that is bound and has its parameters.
    mxnet_data_shapes : list of mxnet.io.DataDesc or of (name, shape)
        The shapes of the module's inputs in the replicas. The first dimension is the batch: other sizes need a
        ``model.reshape`` in `func`, or ``batch_size=1``.
    {options}

    Examples
    --------
    ::

        def predict(model, inputs):
            model.reshape([("data", inputs.shape)])
            model.forward(mx.io.DataBatch([mx.nd.array(inputs)]), is_train=False)
            return model.get_outputs()[0].asnumpy().argmax(axis=1)

        deploy_mxnet_model(clipper_conn, "digits", 1, "floats", predict, module, iterator.provide_data)
    """
    deploy_function(
        clipper_conn,
        name,
        version,
        input_type,
        func,
        images.MXNET,
        lambda folder: _save(mxnet_model, mxnet_data_shapes, folder),
        **options,
    )


def _save(model: "mxnet.mod.Module", data_shapes: Sequence[Any], folder: Path) -> tuple[str, ...]:
    with explained("mxnet_data_shapes", "It should be a list of (name, shape)"):
        shapes = [(str(name), [int(size) for size in shape]) for name, shape, *_ in data_shapes]
    (folder / modeldir.MXNET_METADATA_FILE).write_text(json.dumps({"data_shapes": shapes}))
    with explained("mxnet_model", "The module cannot be saved"):
        model.save_checkpoint(str(folder / modeldir.MXNET_PREFIX), 0)
    return ()
