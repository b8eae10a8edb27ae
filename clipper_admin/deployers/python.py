"""Deploys plain Python functions."""

from typing import Unpack

from clipper_admin import images
from clipper_admin.clipper_admin import ClipperConnection, Version
from clipper_admin.deployers.deployer_utils import deploy_function, make_endpoint
from clipper_admin.deployers.options import DeployOptions, EndpointOptions, with_options
from clipper_common.modeldir import PredictFunction


@with_options()
def create_endpoint(
    clipper_conn: ClipperConnection,
    name: str,
    input_type: str,
    func: PredictFunction,
    **options: Unpack[EndpointOptions],
) -> None:
    """Register an application, deploy a function as a model of the same name, and link the two.

    Parameters
    ----------
    {endpoint}
    input_type, func
        As in `deploy_python_closure`.
    {endpoint_options}

    Examples
    --------
    ::

        python_deployer.create_endpoint(
            clipper_conn, name="sum", input_type="doubles", func=lambda xs: [sum(x) for x in xs]
        )
    """
    make_endpoint(deploy_python_closure, clipper_conn, name, input_type, func, **options)


@with_options()
def deploy_python_closure(
    clipper_conn: ClipperConnection,
    name: str,
    version: Version,
    input_type: str,
    func: PredictFunction,
    **options: Unpack[DeployOptions],
) -> None:
    """Deploy a Python function, with everything that it captured, as a model.

    Parameters
    ----------
    {head}
    func : function
        Called as ``func(inputs)``.
        {inputs}
    {options}

    Examples
    --------
    ::

        def centered_predict(xs):
            return model.predict(xs - np.mean(xs, axis=0))

        deploy_python_closure(clipper_conn, name="example", version=1, input_type="doubles", func=centered_predict)
    """
    deploy_function(clipper_conn, name, version, input_type, func, images.PYTHON, called_with=["inputs"], **options)
