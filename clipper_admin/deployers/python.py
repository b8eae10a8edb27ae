"""Deploys plain Python functions."""

from collections.abc import Iterable, Mapping
from typing import Any

from clipper_admin import images
from clipper_admin.clipper_admin import ClipperConnection, Version
from clipper_admin.deployers.deployer_utils import deploy_function, endpoint
from clipper_common.constants import DEFAULT_BATCH_SIZE
from clipper_common.modeldir import PredictFunction


def create_endpoint(
    clipper_conn: ClipperConnection,
    name: str,
    input_type: str,
    func: PredictFunction,
    default_output: str = "None",
    version: Version = 1,
    slo_micros: int = 3000000,
    labels: Iterable[str] | None = None,
    registry: str | None = None,
    base_image: str = "default",
    num_replicas: int = 1,
    batch_size: int = DEFAULT_BATCH_SIZE,
    pkgs_to_install: Iterable[str] | None = None,
    make_current: bool = True,
    resources: Mapping[str, Any] | None = None,
    gpus: int | str | Iterable[str] | None = None,
) -> None:
    """Register an application, deploy a function as a model of the same name, and link the two.

    Parameters
    ----------
    clipper_conn : ClipperConnection
        A connection to a running cluster.
    name : str
        Name of the application and of the model.
    default_output : str, optional
        What is answered, with the reason, when no prediction is there by the deadline.
    slo_micros : int, optional
        The deadline of a query, in microseconds.
    input_type, func, version, labels, registry, base_image, num_replicas, batch_size, pkgs_to_install, make_current
        As in `deploy_python_closure`.
    resources, gpus
        As in `deploy_python_closure`.

    Raises
    ------
    UnconnectedException
        When there is no cluster to speak to.
    ClipperException
        When an argument is wrong or a step fails. What was begun is undone.

    Examples
    --------
    ::

        python_deployer.create_endpoint(
            clipper_conn, name="sum", input_type="doubles", func=lambda xs: [sum(x) for x in xs]
        )
    """
    with endpoint(clipper_conn, name, input_type, default_output, slo_micros):
        deploy_python_closure(
            clipper_conn,
            name,
            version,
            input_type,
            func,
            base_image,
            labels,
            registry,
            num_replicas,
            batch_size,
            pkgs_to_install,
            make_current,
            resources,
            gpus,
        )


def deploy_python_closure(
    clipper_conn: ClipperConnection,
    name: str,
    version: Version,
    input_type: str,
    func: PredictFunction,
    base_image: str = "default",
    labels: Iterable[str] | None = None,
    registry: str | None = None,
    num_replicas: int = 1,
    batch_size: int = DEFAULT_BATCH_SIZE,
    pkgs_to_install: Iterable[str] | None = None,
    make_current: bool = True,
    resources: Mapping[str, Any] | None = None,
    gpus: int | str | Iterable[str] | None = None,
) -> None:
    """Deploy a Python function, with everything that it captured, as a model.

    Parameters
    ----------
    clipper_conn : ClipperConnection
        A connection to a running cluster.
    name : str
        The model's name.
    version : str
        A version that this model has not had.
    input_type : str
        What an input is: ``integers``, ``floats``, ``doubles``, ``bytes`` or ``strings``.
    func : function
        Takes a list of inputs and returns a list with as many outputs, which become texts by ``str``. Inputs are
        numpy arrays, of a type that fits `input_type`, or ``str``. The function is pickled with what it captured.
    base_image : str, optional
        What holds the program that serves the function; by default Clipper's own for the running Python.
    labels : list of str, optional
        Notes for humans.
    registry : str, optional
        A container registry to push the image to.
    num_replicas : int, optional
        How many replicas to start.
    batch_size : int, optional
        The most inputs that the function is given at once; -1 lets Clipper learn a good number.
    pkgs_to_install : list of str, optional
        Python packages that the function needs, as pip names them.
    make_current : bool, optional
        Whether the version answers queries from now on.
    resources, gpus
        As in ``ClipperConnection.deploy_model``: the most that each replica may use, and the GPUs that it sees.

    Raises
    ------
    UnconnectedException
        When there is no cluster to speak to.
    ClipperException
        When an argument is wrong, the function cannot be pickled, the version exists, or a replica does not start.

    Examples
    --------
    ::

        def centered_predict(xs):
            return model.predict(xs - np.mean(xs, axis=0))

        deploy_python_closure(clipper_conn, name="example", version=1, input_type="doubles", func=centered_predict)
    """
    deploy_function(
        clipper_conn,
        name,
        version,
        input_type,
        func,
        images.python_closure_container() if base_image == "default" else base_image,
        labels=labels,
        container_registry=registry,
        num_replicas=num_replicas,
        batch_size=batch_size,
        pkgs_to_install=pkgs_to_install,
        make_current=make_current,
        resources=resources,
        gpus=gpus,
    )
