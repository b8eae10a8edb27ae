"""ClipperConnection, the interface by which users start, change, inspect and stop a Clipper cluster."""

import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, overload

from clipper_admin import functions, images, older_calls, rehearsal, startup
from clipper_admin.arguments import (
    INT32_MAX,
    check_folder,
    check_frontend_options,
    check_input_type,
    check_json,
    check_load_timeout,
    check_model_versions,
    check_name,
    check_packages,
    check_size_limit,
    check_text,
    check_texts,
    check_version,
    check_whole_number,
)
from clipper_admin.container_manager import CONTAINERLESS_MODEL_IMAGE, ClusterAdapter, ContainerManager
from clipper_admin.log_setup import show_messages
from clipper_admin.management_client import ManagementClient
from clipper_admin.model_spec import ImageSpec, ModelSpec, check_options
from clipper_admin.query_client import QueryClient
from clipper_admin.replicas import Replicas
from clipper_admin.resources import check_resources
from clipper_common import modeldir
from clipper_common.constants import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_PREDICTION_CACHE_SIZE_BYTES,
    IDLE_CONNECTION_SECONDS,
    LOAD_SECONDS,
)
from clipper_common.datatypes import InputType, Link
from clipper_common.errors import ClipperException, UnconnectedException
from clipper_common.waiting import TimeLimit

DEFAULT_LABEL: Final[list[str]] = []
CLIPPER_TEMP_DIR: Final = tempfile.gettempdir()
"""The folder for temporary model folders while they are packaged."""

Version = str | int | float
"""A model's version. It is converted by ``str()``: 1 and ``"1"`` are the same version."""


class ClipperConnection:
    """The handle to a Clipper cluster: starts it, deploys models to it, inspects and stops it.

    Call `start_clipper` to start a cluster, or `connect` for one that runs already. Before that, methods that need a
    cluster raise ``UnconnectedException``. All errors are a ``ClipperException`` whose text says what was wrong. Every
    method has a time limit.

    Parameters
    ----------
    container_manager : ContainerManager
        Starts and stops the programs of the cluster, such as ``ProcessContainerManager()``.

    Attributes
    ----------
    cm : ContainerManager
        The container manager.
    connected : bool
        Whether this connection has started, or connected to, a cluster.

    Examples
    --------
    ::

        from clipper_admin import ClipperConnection, ProcessContainerManager
        from clipper_admin.deployers import python as python_deployer

        clipper_conn = ClipperConnection(ProcessContainerManager())
        clipper_conn.start_clipper()
        python_deployer.create_endpoint(
            clipper_conn, name="sum", input_type="doubles", func=lambda xs: [sum(x) for x in xs]
        )
        clipper_conn.predict("sum", [1.1, 2.2, 3.3])
        clipper_conn.stop_all()
    """

    def __init__(self, container_manager: ContainerManager) -> None:
        if not isinstance(container_manager, ContainerManager):
            raise ClipperException(
                f"Invalid value: container_manager={container_manager!r}. "
                "It should be a container manager such as ProcessContainerManager()."
            )
        show_messages()
        self.cm = container_manager
        self.connected = False
        self.logger = ClusterAdapter(
            logging.getLogger("clipper_admin"), {"cluster_name": container_manager.cluster_identifier}
        )
        self._management_client = ManagementClient(container_manager.get_admin_addr)
        self._query_client = QueryClient(container_manager.get_query_addr)

    # --- the cluster ---

    def start_clipper(
        self,
        query_frontend_image: str = images.image_name(images.QUERY_FRONTEND),
        mgmt_frontend_image: str = images.image_name(images.MANAGEMENT_FRONTEND),
        frontend_exporter_image: str = images.image_name(images.FRONTEND_EXPORTER),
        cache_size: int = DEFAULT_PREDICTION_CACHE_SIZE_BYTES,
        qf_http_thread_pool_size: int = 1,
        qf_http_timeout_request: int = IDLE_CONNECTION_SECONDS,
        qf_http_timeout_content: int = 300,
        num_frontend_replicas: int = 1,
        workers: int = 1,
        *,
        query_frontend_flags: Mapping[str, int] | None = None,
        mgmt_frontend_flags: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        """Start a new cluster and connect to it. Returns when it answers, about a second later.

        Parameters
        ----------
        query_frontend_image, mgmt_frontend_image, frontend_exporter_image : str, optional
            Images to use instead of Clipper's own. They must speak the same interfaces.
        cache_size : int, optional
            Size of the prediction cache of each worker in bytes, 32 MiB by default. 0 turns the cache off.
        qf_http_thread_pool_size : int, optional
            Has no effect. It is accepted for scripts of Clipper 0.4; the query frontend has an event loop and no thread
            pool.
        qf_http_timeout_request : int, optional
            Seconds after which the query frontend closes an idle connection, 75 by default (5 in Clipper 0.4). A proxy
            or a client with a connection pool should close its idle connections earlier.
        qf_http_timeout_content : int, optional
            Seconds that the body of a request may take to arrive, 300 by default.
        num_frontend_replicas : int, optional
            Number of query frontends to start, 1 by default. Clients use one address for all of them.
        workers : int, optional
            Number of processes of each query frontend, which share its queries; 1 by default. Start as many as there
            are cores for queries.
        query_frontend_flags : dict, optional
            Further flags of the query frontend by their names: its limits (``max_body_bytes``, ``max_connections``,
            ``body_memory``), ``blame_seconds`` and ``slow_turn_millis``, which are integers, and ``inflate_bodies`` and
            ``fast_lane``, which are booleans. ``python -m query_frontend --help`` has their meanings and defaults.
        mgmt_frontend_flags : dict, optional
            Further flags of the management frontend: ``allowed_origins`` and ``allowed_hosts``, lists of str, the
            origins of web pages and the host names from which it accepts requests.

        Raises
        ------
        ClipperException
            When an argument is wrong, a cluster of this name runs already, or the cluster does not answer within
            a minute. All programs are stopped again; the text has the last lines of their logs.
        """
        older_calls.check_start_call(frontend_exporter_image, cache_size)
        options = check_frontend_options(
            query_frontend_flags,
            mgmt_frontend_flags,
            query_frontend_image=query_frontend_image,
            mgmt_frontend_image=mgmt_frontend_image,
            frontend_exporter_image=frontend_exporter_image,
            cache_size=cache_size,
            qf_http_thread_pool_size=qf_http_thread_pool_size,
            qf_http_timeout_request=qf_http_timeout_request,
            qf_http_timeout_content=qf_http_timeout_content,
            num_frontend_replicas=num_frontend_replicas,
            workers=workers,
        )
        self.cm.start_clipper(options)
        checks = (self._query_client.check_ready, self._query_client.metrics, self._management_client.ping)
        startup.wait_until_up(self.cm, checks)
        self.connected = True
        self.logger.info("Clipper is running")

    def connect(self) -> None:
        """Connect to a running cluster, which another program may have started.

        Raises
        ------
        ClipperException
            When no cluster of this name is found, or its management frontend does not answer within ten seconds.
        """
        self.cm.connect()
        self.cm.get_admin_addr()  # without an address, fail now and do not wait
        startup.repeat(self._management_client.ping, TimeLimit(startup.CONNECT_SECONDS))
        self.connected = True
        self.logger.info("Successfully connected to Clipper cluster at %s", self.cm.get_query_addr())

    def get_num_frontend_replicas(self) -> int:
        """Return the number of query frontends that the cluster should have.

        Returns
        -------
        int
            The number that was last set; it may differ from the number that is running.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        """
        self._check_connected()
        return self.cm.get_num_frontend_replicas()

    def set_num_frontend_replicas(self, num_frontend_replicas: int) -> None:
        """Start or stop query frontends until there are `num_frontend_replicas`. No query fails meanwhile.

        Returns when new query frontends answer queries. Those that are stopped finish their requests first.

        Parameters
        ----------
        num_frontend_replicas : int
            The number of query frontends, at least 1.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When the argument is wrong, or a new query frontend does not start in time.

        Examples
        --------
        >>> clipper_conn.set_num_frontend_replicas(2)  # doctest: +SKIP
        """
        self._check_connected()
        self.cm.set_num_frontend_replicas(check_whole_number("num_frontend_replicas", num_frontend_replicas, least=1))
        self.logger.info("Clipper has %d query frontends now", num_frontend_replicas)

    @property
    def _management(self) -> ManagementClient:
        self._check_connected()
        return self._management_client

    @property
    def _query(self) -> QueryClient:
        self._check_connected()
        return self._query_client

    def _check_connected(self) -> None:
        if not self.connected:
            raise UnconnectedException()

    # --- applications ---

    def register_application(
        self,
        name: str,
        input_type: str,
        default_output: str,
        slo_micros: int,
        missing_values: bool = False,
        max_body_bytes: int | None = None,
    ) -> None:
        """Register an application: create the endpoint ``http://<query address>/<name>/predict``.

        Parameters
        ----------
        name : str
            A unique name of letters, digits, ``-``, ``_``, ``.`` and ``~``.
        input_type : str
            Type of an input: ``integers``, ``floats``, ``doubles``, ``bytes`` or ``strings``.
        default_output : str
            The answer, with the reason, when there is no prediction by the deadline.
        slo_micros : int
            The deadline (service level objective) in microseconds, from the receipt of a query to its answer, without
            the time in the network. 100000 (100 ms) is a good first value.
        missing_values : bool, optional
            Whether inputs of the types ``floats`` and ``doubles`` may contain ``null`` (which the model gets as NaN),
            ``NaN``, ``Infinity`` and ``-Infinity``. By default they are refused.
        max_body_bytes : int, optional
            Size of the largest body of a request in bytes, from 65536 to 1073741824. By default it is the limit of the
            query frontend, which is 32 MiB unless the flag ``max_body_bytes`` sets it.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When an argument is wrong or the name is taken.
        """
        management = self._management
        if not isinstance(default_output, str):
            raise ClipperException(f"Invalid value: default_output={default_output!r}. It should be a text.")
        management.add_app(
            check_text("name", name),
            check_input_type("input_type", input_type),
            default_output,
            check_whole_number("slo_micros", slo_micros, least=1, most=INT32_MAX),
            bool(missing_values),
            check_size_limit("max_body_bytes", max_body_bytes),
        )
        self.logger.info("Application %s was successfully registered", name)

    def unregister_application(self, name: str) -> None:
        """Remove an application, its endpoint and its link. Its model stays.

        Parameters
        ----------
        name : str
            The application's name.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When the application is unknown.
        """
        self._management.delete_app(check_text("name", name))
        self.logger.info("Application %s was successfully unregistered", name)

    def delete_application(self, name: str) -> None:
        """Call `unregister_application`, whose old name this is (deprecated)."""
        self.logger.warning("delete_application is deprecated: call unregister_application instead")
        self.unregister_application(name)

    def link_model_to_app(self, app_name: str, model_name: str, version: Version | None = None) -> None:
        """Link a model to an application: the model answers the application's queries.

        Parameters
        ----------
        app_name : str
            A registered application.
        model_name : str
            A deployed or registered model with the same input type.
        version : str, optional
            The version that answers, whichever is current. By default the model's current version answers. An
            application with the selection policy ``single``, which all have at first, takes no version.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When either is unknown, their input types differ, or the application is linked to it already, or to another
            model without a policy that can use several: see `set_selection_policy`.
        """
        link = self._link(app_name, model_name, version)
        self._management.add_model_link(app_name, link)
        self.logger.info("Model %s is now linked to application %s", link, app_name)

    def unlink_model_from_app(self, app_name: str, model_name: str, version: Version | None = None) -> None:
        """Remove the link of an application to a model. Without any link, it answers with its default output.

        Parameters
        ----------
        app_name : str
            A registered application.
        model_name : str
            The model that the application is linked to.
        version : str, optional
            The version, if the link is to one.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When there is no such link, or the application's selection policy needs it.
        """
        link = self._link(app_name, model_name, version)
        self._management.delete_model_link(app_name, link)
        self.logger.info("Model %s is now removed to application %s", link, app_name)

    @staticmethod
    def _link(app_name: str, model_name: str, version: Version | None) -> str:
        check_text("app_name", app_name)
        return str(Link(check_text("model_name", model_name), None if version is None else str(version)))

    def set_selection_policy(self, app_name: str, policy: str, **options: Any) -> None:
        """Set how an application chooses among the models that it is linked to.

        Parameters
        ----------
        app_name : str
            A registered application.
        policy : str
            ``"single"``, with which the only linked model answers, or ``"split"``, with which one model answers each
            query, chosen by weight. An application is linked to several models only while its policy can use them.
        **options
            Of ``"split"``: `weights`, a dictionary with the weight of each linked model, by ``"name"`` or
            ``"name:version"`` as it was linked. A model that is not named has the weight 0; without `weights` all are
            equal. `sticky_key` is ``"uid"`` (a key of the request's body) or ``"header:NAME"``: queries with the same
            value are answered by the same model, as far as changes of the weights allow.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When the application or policy is unknown, an option is wrong, or they do not fit the linked models.

        Examples
        --------
        A twentieth of the queries for version 2, while version 1 is the current one:

        >>> clipper_conn.set_selection_policy("app", "split", weights={"m": 1})  # doctest: +SKIP
        >>> clipper_conn.link_model_to_app("app", "m", version=2)  # doctest: +SKIP
        >>> clipper_conn.set_selection_policy("app", "split", weights={"m": 95, "m:2": 5})  # doctest: +SKIP
        """
        management = self._management
        management.set_selection_policy(
            check_text("app_name", app_name),
            check_text("policy", policy),
            {name: check_json(name, value) for name, value in options.items()},
        )
        self.logger.info("Application %s now has the selection policy %s", app_name, policy)

    def get_selection_policy(self, app_name: str) -> dict[str, Any]:
        """Look up how an application chooses among its models.

        Parameters
        ----------
        app_name : str
            A registered application.

        Returns
        -------
        dict
            ``policy``, its name; ``options``, all of them; ``generation``, the number of changes of the policy, 0 if it
            was never set; and ``linked_models``.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When there is no such application.
        """
        return self._management.get_selection_policy(check_text("app_name", app_name))

    def delete_selection_state(self, app_name: str) -> None:
        """Forget what the selection policy of an application has learned. The policies of this version learn nothing.

        Parameters
        ----------
        app_name : str
            A registered application.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When there is no such application.
        """
        self._management.delete_selection_state(check_text("app_name", app_name))

    @overload
    def predict(self, app: str, input: Any, version: Version | None = None) -> dict[str, Any]: ...

    @overload
    def predict(self, app: str, *, version: Version | None = None, input_batch: Any) -> list[dict[str, Any]]: ...

    def predict(
        self, app: str, input: Any = None, version: Version | None = None, input_batch: Any = None
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Query an application for the prediction for one input, or for several.

        Parameters
        ----------
        app : str
            The application's name.
        input : list, numpy.ndarray, str or bytes
            One input of the application's type. Bytes are sent as Base64. None and NaN are missing values, which an
            application takes if it was registered with ``missing_values=True``.
        version : str, optional
            The version of the linked model that should answer; by default the current one.
        input_batch : list or numpy.ndarray, optional
            Several inputs, instead of `input`.

        Returns
        -------
        dict
            ``query_id``; ``output``; ``default``, whether the output is the application's default output; and in that
            case ``default_explanation``, the reason. For `input_batch`, a list of such dictionaries in the order of
            the inputs.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When the query is refused; the text has the reason. Also when the frontend cannot be reached.

        Examples
        --------
        >>> clipper_conn.predict("hello-world", [1.1, 2.2, 3.3])  # doctest: +SKIP
        {'query_id': 0, 'output': 6.6, 'default': False}
        """
        query, app = self._query, check_text("app", app)
        wanted = None if version is None else str(version)
        if input_batch is None:
            if input is None:
                raise ClipperException("Invalid value: input=None. Pass one input, or several as input_batch=[...].")
            return query.predict(app, input, wanted)
        if input is not None:
            raise ClipperException("Invalid value: input and input_batch are both given. Pass one of them.")
        if isinstance(input_batch, str | bytes | Mapping) or not hasattr(input_batch, "__len__"):
            raise ClipperException(f"Invalid value: input_batch={input_batch!r}. It should be a list of inputs.")
        return query.predict_batch(app, list(input_batch), wanted)

    # --- models ---

    def build_and_deploy_model(
        self,
        name: str,
        version: Version,
        input_type: str,
        model_data_path: str | Path,
        base_image: str,
        labels: Iterable[str] | None = None,
        container_registry: str | None = None,
        num_replicas: int = 1,
        batch_size: int = DEFAULT_BATCH_SIZE,
        pkgs_to_install: Iterable[str] | None = None,
        make_current: bool = True,
        resources: Mapping[str, Any] | None = None,
        gpus: int | str | Iterable[str] | None = None,
        batch_policy: str | None = None,
        batch_delay_micros: int = 0,
        load_timeout: float = LOAD_SECONDS,
        max_output_bytes: int | None = None,
        batch_wait: bool = True,
    ) -> None:
        """Package a model folder and deploy it. See `build_model` and `deploy_model` for the parameters.

        Before anything is built, it is checked that the version can be registered.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When an argument is wrong, the version exists, or a step fails. Replicas and the image are removed again,
            but an image that was pushed to a registry stays there.
        """
        management = self._management
        model = ModelSpec.checked(
            name=check_name(name),
            version=check_version(version),
            input_type=input_type,
            image=self._image(name, version, container_registry),
            labels=labels,
            num_replicas=num_replicas,
            batch_size=batch_size,
            make_current=make_current,
            resources=check_resources(resources, gpus),
            batch_policy=batch_policy,
            batch_delay_micros=batch_delay_micros,
            load_seconds=check_load_timeout(load_timeout),
            max_output_bytes=max_output_bytes,
            batch_wait=batch_wait,
        )
        management.add_model(model, check_only=True)
        self.build_model(name, version, model_data_path, base_image, container_registry, pkgs_to_install)
        try:
            self._deploy(model)
        except BaseException:
            self.cm.remove_model(model.image)
            raise

    def build_model(
        self,
        name: str,
        version: Version,
        model_data_path: str | Path,
        base_image: str,
        container_registry: str | None = None,
        pkgs_to_install: Iterable[str] | None = None,
    ) -> str:
        """Build an image of a model folder and the program that serves it. This needs no running cluster.

        Parameters
        ----------
        name : str
            The model's name: lower case letters, digits and ``-``.
        version : str
            The model's version: lower case letters, digits, ``-`` and ``.``.
        model_data_path : str
            The model folder. In a replica, the environment variable ``CLIPPER_MODEL_PATH`` has the path of its copy.
        base_image : str
            The image with the program that serves the model.
        container_registry : str, optional
            The registry to push the image to. Machines that run containers must be able to pull from there. By default
            the image is not pushed.
        pkgs_to_install : list of str, optional
            Requirements, as for pip, of the Python packages to install beyond those of the base image.

        Returns
        -------
        str
            The image's name, ``[<registry>/]<cluster>-<name>:<version>``, for `deploy_model`.

        Raises
        ------
        ClipperException
            When an argument is wrong or a step fails. The text has the output of the failed step.
        """
        image = self._image(name, version, container_registry)
        check_text("base_image", base_image)
        packages = check_packages(pkgs_to_install)
        folder = check_folder("model_data_path", model_data_path)
        self.logger.info("Building model image %s with model data from %s", image, folder)
        self.cm.build_model(ImageSpec(image, folder, base_image, container_registry, tuple(packages)))
        return image

    def _image(self, name: str, version: Version, container_registry: str | None) -> str:
        image = f"{self.cm.cluster_identifier}-{check_name(name)}:{check_version(version)}"
        return (
            image if container_registry is None else f"{check_text('container_registry', container_registry)}/{image}"
        )

    def deploy_model(
        self,
        name: str,
        version: Version,
        input_type: str,
        image: str,
        labels: Iterable[str] | None = None,
        num_replicas: int = 1,
        batch_size: int = DEFAULT_BATCH_SIZE,
        make_current: bool = True,
        resources: Mapping[str, Any] | None = None,
        gpus: int | str | Iterable[str] | None = None,
        batch_policy: str | None = None,
        batch_delay_micros: int = 0,
        load_timeout: float = LOAD_SECONDS,
        max_output_bytes: int | None = None,
        batch_wait: bool = True,
    ) -> None:
        """Start replicas of a model version, wait until they serve, and register it as the current version.

        Until then, the previous version answers the queries of linked applications.

        Parameters
        ----------
        name : str
            The model's name: lower case letters, digits and ``-``.
        version : str
            A version that is not registered: lower case letters, digits, ``-`` and ``.``.
        input_type : str
            What an input is: ``integers``, ``floats``, ``doubles``, ``bytes`` or ``strings``.
        image : str
            The name that `build_model` returned, or another image that serves a model.
        labels : list of str, optional
            Notes for humans.
        num_replicas : int, optional
            Number of replicas to start, 1 by default. With 0 the version is only registered.
        batch_size : int, optional
            Largest number of inputs in a batch. With -1, the default, Clipper learns it for each replica by
            `batch_policy`.
        make_current : bool, optional
            Whether the new version becomes the current one, which is the default. If not, it answers only queries that
            name it, until `set_model_version` makes it current.
        resources : dict, optional
            Limits of each replica: ``{"memory": "512m", "cpus": 1.5}``, or one of the two. They apply also to replicas
            that are added later. There are no limits by default.
        gpus : int, str or list of str, optional
            The GPUs of each replica: a number, ``"all"``, or a list of their identifiers. None by default.
        batch_policy : str, optional
            The policy that learns the batch size: ``"learned"`` (the default), ``"aimd"`` or ``"quantile"``. With a
            positive `batch_size` it is ``"fixed"``. `set_batching` can change it later.
        batch_delay_micros : int, optional
            Microseconds that a query waits, counted from its arrival, for a batch to fill; 0 turns the delay off. A
            query never waits longer than its deadline allows.
        load_timeout : float, optional
            Seconds from the start of the replicas within which they must serve; 300 by default. Otherwise they are
            stopped, and the error has the last lines of their logs.
        max_output_bytes : int, optional
            Size of the largest output for one input in bytes, from 65536 to 1073741824; 32 MiB by default. For a larger
            output, the answer is the default output, with the reason.
        batch_wait : bool, optional
            Whether an idle replica waits, for a fraction of the time of a batch, for clients that were just answered
            and are expected to send another query. It never does with a positive `batch_size` or a
            `batch_delay_micros`.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When an argument is wrong, the version exists, its input type differs from that of a linked application, or
            a replica dies or does not serve in time. Replicas that were started are stopped again.

        Examples
        --------
        >>> clipper_conn.deploy_model("digits", "2.0", "doubles", image, num_replicas=2)  # doctest: +SKIP
        """
        self._check_connected()
        model = ModelSpec.checked(
            name=check_name(name),
            version=check_version(version),
            input_type=input_type,
            image=image,
            labels=labels,
            num_replicas=num_replicas,
            batch_size=batch_size,
            make_current=make_current,
            resources=check_resources(resources, gpus),
            batch_policy=batch_policy,
            batch_delay_micros=batch_delay_micros,
            load_seconds=check_load_timeout(load_timeout),
            max_output_bytes=max_output_bytes,
            batch_wait=batch_wait,
        )
        self._deploy(model)

    def _deploy(self, model: ModelSpec) -> None:
        self._management.add_model(model, check_only=True)
        if model.num_replicas == 0:
            self._register(model)
        else:
            self._start_and_register(model)
        self.logger.info("Done deploying model %s.", model)

    def _start_and_register(self, model: ModelSpec) -> None:
        self._refuse_running(model)
        replicas = Replicas(self.cm, self._management, model.name, model.version)
        with replicas.removed_on_failure():
            self.cm.deploy_model(model)
            replicas.wait_until_connected(model.num_replicas, model.load_seconds)
            # Register only now, because registration routes queries to the replicas.
            self._register(model)

    def _refuse_running(self, model: ModelSpec) -> None:
        if self.cm.get_num_replicas(model.name, model.version):
            raise ClipperException(
                f"Replicas of {model} run already, though it is not registered: it is being deployed by somebody else, "
                "or a deployment was cut off. "
                f"stop_versioned_models({{'{model.name}': ['{model.version}']}}) removes them."
            )

    def _register(self, model: ModelSpec) -> None:
        self._management.add_model(model)
        self.logger.info("Successfully registered model %s", model)

    def register_model(
        self,
        name: str,
        version: Version,
        input_type: str,
        image: str | None = None,
        labels: Iterable[str] | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        batch_policy: str | None = None,
        batch_delay_micros: int = 0,
        max_output_bytes: int | None = None,
        batch_wait: bool = True,
    ) -> None:
        """Register a model version whose containers you start yourself, as the current version. No replica is started.

        Parameters
        ----------
        name : str
            The model's name, without ``,`` and ``:``.
        version : str
            A version that is not registered, without ``,`` and ``:``.
        input_type : str
            What an input is: ``integers``, ``floats``, ``doubles``, ``bytes`` or ``strings``.
        image : str, optional
            The image that `set_num_replicas` starts. Without it, Clipper cannot start replicas of this version.
        labels : list of str, optional
            Notes for humans.
        batch_size, batch_policy, batch_delay_micros, max_output_bytes, batch_wait
            As in `deploy_model`.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When an argument is wrong or the version exists.
        """
        self._check_connected()
        model = ModelSpec.checked(
            name=name,
            version=version,
            input_type=input_type,
            image=CONTAINERLESS_MODEL_IMAGE if image is None else image,
            labels=labels,
            batch_size=batch_size,
            batch_policy=batch_policy,
            batch_delay_micros=batch_delay_micros,
            max_output_bytes=max_output_bytes,
            batch_wait=batch_wait,
        )
        self._register(model)

    def set_model_version(
        self,
        name: str,
        version: Version,
        num_replicas: int | None = None,
        load_timeout: float = LOAD_SECONDS,
    ) -> None:
        """Make a registered version of a model the current one, for instance to roll back.

        Parameters
        ----------
        name : str
            The model's name.
        version : str
            A version that was deployed or registered before.
        num_replicas : int, optional
            Number of replicas of the version, which serve before it becomes current. By default the number is not
            changed.
        load_timeout : float, optional
            Seconds that replicas which are started may take until they serve.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When the version is unknown or does not fit a linked application, or a replica does not start.
        """
        management = self._management
        if num_replicas is not None:
            self.set_num_replicas(name, num_replicas, version, load_timeout)
        management.set_model_version(check_text("name", name), str(version))

    def set_batching(
        self,
        name: str,
        version: Version | None = None,
        batch_policy: str | None = None,
        batch_size: int | None = None,
        batch_delay_micros: int | None = None,
        batch_wait: bool | None = None,
    ) -> None:
        """Change the batching of a model version while it serves. Queued queries and cached outputs are kept.

        Settings that are not given do not change, with two exceptions: a policy that learns removes a fixed size, and a
        positive size sets the policy to ``"fixed"``.

        Parameters
        ----------
        name : str
            The model's name.
        version : str, optional
            The version; by default the current one.
        batch_policy : str, optional
            The policy that learns the batch size, ``"learned"``, ``"aimd"`` or ``"quantile"``; or ``"fixed"`` with a
            `batch_size`.
        batch_size : int, optional
            Largest number of inputs in a batch; -1 returns to the policy that learned it before.
        batch_delay_micros : int, optional
            Microseconds that a query waits, counted from its arrival, for a batch to fill; 0 turns the delay off. A
            query never waits longer than its deadline allows.
        batch_wait : bool, optional
            Whether an idle replica waits for clients that are expected to send another query, as in `deploy_model`.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When the version is unknown, or the arguments contradict each other.

        Examples
        --------
        >>> clipper_conn.set_batching("digits", batch_policy="aimd")  # doctest: +SKIP
        >>> clipper_conn.set_batching("digits", batch_size=64, batch_delay_micros=2000)  # doctest: +SKIP
        """
        management = self._management
        given = {
            "batch_policy": batch_policy,
            "batch_size": batch_size,
            "batch_delay_micros": batch_delay_micros,
            "batch_wait": batch_wait,
        }
        wanted = check_options(**{name: value for name, value in given.items() if value is not None})
        version = self._version_or_current(check_text("name", name), version)
        management.set_batching(name, version, **wanted)

    def get_current_model_version(self, name: str) -> str:
        """Return the current version of a model, which answers the queries of linked applications.

        Parameters
        ----------
        name : str
            The model's name.

        Returns
        -------
        str
            The version.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When the model has no current version.
        """
        for model in self._management.get_all_models(verbose=True):
            if model["model_name"] == name and model["is_current_version"]:
                return str(model["model_version"])
        raise ClipperException(f"Model '{name}' has no current version: it is not registered, or that version is gone.")

    # --- replicas ---

    def get_num_replicas(self, name: str, version: Version | None = None) -> int:
        """Return the number of replicas that a model version should have.

        Parameters
        ----------
        name : str
            The model's name.
        version : str, optional
            The version; by default the current one.

        Returns
        -------
        int
            The number; 0 for an unknown version.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When no version is given and the model has no current one.
        """
        self._check_connected()
        return self.cm.get_num_replicas(check_text("name", name), self._version_or_current(name, version))

    def set_num_replicas(
        self,
        name: str,
        num_replicas: int,
        version: Version | None = None,
        load_timeout: float = LOAD_SECONDS,
    ) -> None:
        """Start or stop replicas until a model version has `num_replicas` that serve. No query fails meanwhile.

        Parameters
        ----------
        name : str
            The model's name.
        num_replicas : int
            The number of replicas. With 0, queries for the version get the default output.
        version : str, optional
            The version; by default the current one.
        load_timeout : float, optional
            Seconds that replicas which are started may take until they serve.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When the version is unknown or was registered without an image, or a new replica dies or does not serve in
            time. Replicas that ran before go on running.
        """
        management = self._management
        options = check_options(num_replicas=num_replicas, load_seconds=check_load_timeout(load_timeout))
        version = self._version_or_current(check_text("name", name), version)
        found = management.get_model(name, version)
        if found is None:
            raise ClipperException(f"Cannot resize the replica set for unknown model {name}:{version}")
        if found["container_name"] == CONTAINERLESS_MODEL_IMAGE:
            raise ClipperException(f"Cannot resize the replica set for containerless model {name}:{version}")
        model = ModelSpec(name, version, found["input_type"], found["container_name"], **options)
        replicas = Replicas(self.cm, management, name, version)
        self.cm.set_num_replicas(model)
        replicas.wait_until_connected(model.num_replicas, model.load_seconds)

    def _version_or_current(self, name: str, version: Version | None) -> str:
        return self.get_current_model_version(name) if version is None else str(version)

    # --- inspection ---

    def get_all_apps(self, verbose: bool = False) -> list[Any]:
        """List the applications.

        Parameters
        ----------
        verbose : bool, optional
            True gives a dictionary for each, as `get_app_info` does.

        Returns
        -------
        list
            Names, or dictionaries.
        """
        return self._management.get_all_applications(bool(verbose))

    def get_app_info(self, name: str) -> dict[str, Any] | None:
        """Look up an application.

        Parameters
        ----------
        name : str
            The application's name.

        Returns
        -------
        dict or None
            ``name``, ``input_type``, ``default_output``, ``latency_slo_micros``, ``missing_values``, ``linked_models``,
            ``max_body_bytes`` if it was given, and ``selection_policy`` if one was set, with ``policy``, ``options``
            and ``generation`` as of `get_selection_policy`; None for an unknown application.
        """
        return self._management.get_application(check_text("name", name))

    def get_linked_models(self, app_name: str) -> list[str]:
        """List the models that an application is linked to.

        Parameters
        ----------
        app_name : str
            The application's name.

        Returns
        -------
        list of str
            Their names.

        Raises
        ------
        ClipperException
            When the application is unknown.
        """
        return self._management.get_linked_models(check_text("app_name", app_name))

    def get_all_models(self, verbose: bool = False) -> list[Any]:
        """List the versions of all models.

        Parameters
        ----------
        verbose : bool, optional
            True gives a dictionary for each, as `get_model_info` does.

        Returns
        -------
        list
            ``name:version`` texts, or dictionaries.
        """
        return self._management.get_all_models(bool(verbose))

    def get_model_info(self, name: str, version: Version) -> dict[str, Any] | None:
        """Look up a model version.

        Parameters
        ----------
        name : str
            The model's name.
        version : str
            The version.

        Returns
        -------
        dict or None
            ``model_name``, ``model_version``, ``input_type``, ``labels``, ``container_name``, ``model_data_path``,
            ``is_current_version``, ``batch_policy``, ``batch_size``, ``batch_delay_micros``, ``batch_wait``, and
            ``max_output_bytes`` if it is not the default; None for an unknown version.
        """
        return self._management.get_model(check_text("name", name), str(version))

    def get_all_model_replicas(self, verbose: bool = False) -> list[Any]:
        """List the replicas that are connected to the query frontend.

        Parameters
        ----------
        verbose : bool, optional
            True gives a dictionary for each, as `get_model_replica_info` does.

        Returns
        -------
        list
            ``name:version:replica`` texts, or dictionaries.
        """
        return self._management.get_all_containers(bool(verbose))

    def get_model_replica_info(self, name: str, version: Version, replica_id: int) -> dict[str, Any] | None:
        """Look up a connected replica.

        Parameters
        ----------
        name : str
            The model's name.
        version : str
            The version.
        replica_id : int
            The number that `get_all_model_replicas` shows.

        Returns
        -------
        dict or None
            ``model_id``, ``model_name``, ``model_version``, ``model_replica_id`` and ``input_type``; None for an
            unknown replica.
        """
        management = self._management
        number = check_whole_number("replica_id", replica_id, least=0)
        return management.get_container(check_text("name", name), str(version), number)

    def get_clipper_logs(self, logging_dir: str = "clipper_logs/") -> list[str]:
        """Write the logs of all programs of the cluster into a folder, also of programs that have stopped.

        Parameters
        ----------
        logging_dir : str, optional
            The folder, which is created if it does not exist.

        Returns
        -------
        list of str
            The paths of the files.
        """
        self._check_connected()
        if not isinstance(logging_dir, (str, Path)) or not str(logging_dir):
            raise ClipperException(f"Invalid value: logging_dir={logging_dir!r}. It should be the path of a folder.")
        try:
            paths = self.cm.get_logs(str(logging_dir))
        except OSError as error:
            raise ClipperException(f"The logs cannot be written to {logging_dir}: {error}") from error
        self.logger.info("Wrote %d logs to %s", len(paths), Path(logging_dir).expanduser().absolute())
        return paths

    def inspect_instance(self) -> dict[str, Any]:
        """Fetch the metrics of the query frontend.

        Returns
        -------
        dict
            The keys ``counters``, ``ratio_counters``, ``meters``, ``histograms`` and ``gauges``, each with a list of
            metrics as in the documentation of the HTTP API.
        """
        return self._query.metrics()

    def get_query_addr(self) -> str:
        """Return ``host:port`` of the query frontend, which answers predictions."""
        self._check_connected()
        return self.cm.get_query_addr()

    def get_metric_addr(self) -> str:
        """Return ``host:port`` of the metrics of all programs: a page ``/metrics`` for Prometheus with
        ``ProcessContainerManager``, and a Prometheus server with the other managers.
        """
        self._check_connected()
        return self.cm.get_metric_addr()

    def test_predict_function(
        self,
        query: Any,
        func: Callable[..., Any],
        input_type: str,
        inputs: str = modeldir.ARRAY_INPUTS,
        outputs: str = modeldir.JSON_OUTPUTS,
    ) -> Any:
        """Call a function as a model container would, without deploying it. This needs no cluster.

        The function is pickled. A new process of this Python, in another folder, reads it and calls it with the inputs.

        Parameters
        ----------
        query : dict, str or list
            ``{"input": <one input>}`` or ``{"input_batch": [<inputs>]}``; JSON text of this; or a list of such
            dictionaries, whose inputs make one batch.
        func : function
            Takes a list of inputs and returns a list of outputs.
        input_type : str
            What an input is: ``integers``, ``floats``, ``doubles``, ``bytes`` or ``strings``.
        inputs, outputs : str, optional
            As in the deployers: ``inputs="list"`` gives the function a list of arrays, and ``outputs="text"`` answers
            with ``str()`` of each output.

        Returns
        -------
        list, tuple or array
            The return value of the function, one output for each input. If a client would get another value than such
            an output, for instance the text ``"None"`` for ``None``, a warning is logged.

        Raises
        ------
        ClipperException
            When the function cannot be pickled, raises, or does not return one output per input, or an input is not of
            `input_type`. The text says where.

        Examples
        --------
        >>> clipper_conn.test_predict_function(
        ...     {"input": [1.0, 2.0]}, lambda xs: [sum(x) for x in xs], "doubles"
        ... )  # doctest: +SKIP
        [3.0]
        """
        kind = InputType.parse(check_input_type("input_type", input_type))
        return rehearsal.try_function(query, func, kind, functions.check_settings(inputs, outputs))

    # --- stopping ---

    def stop_models(self, model_names: str | Iterable[str]) -> None:
        """Stop and unregister all versions of these models.

        Parameters
        ----------
        model_names : list of str
            Names of models, or one name. Models that are not registered are skipped.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When a program could not be stopped.
        """
        registered = self._registered(self._management.get_all_models(verbose=True))
        self._unregister_and_stop(self._of_names(registered, model_names), registered)

    def stop_versioned_models(self, model_versions_dict: Mapping[str, Version | Iterable[Version]]) -> None:
        """Stop and unregister these versions, even if they are current.

        Parameters
        ----------
        model_versions_dict : dict
            Model names, each with a list of versions, or with one version.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When a version is neither registered nor running (then nothing is stopped), or a replica could not be
            stopped.

        Examples
        --------
        >>> clipper_conn.stop_versioned_models({"digits": ["1", "2"]})  # doctest: +SKIP
        """
        management = self._management
        models = check_model_versions(model_versions_dict)
        known = self._registered(management.get_all_models(verbose=True))
        for name, versions in models.items():
            for version in versions:
                if version not in known.get(name, ()) and not self.cm.get_num_replicas(name, version):
                    raise ClipperException(f"model with name '{name}' and version '{version}' does not exist")
        self._unregister_and_stop(models, known)

    def stop_inactive_model_versions(self, model_names: str | Iterable[str], unregister: bool = True) -> None:
        """Stop all versions of these models but those in use, and unregister them.

        In use are the current versions, and those that an application is linked to by their number.

        Parameters
        ----------
        model_names : list of str
            Names of models, or one name. Models that are not registered are skipped.
        unregister : bool, optional
            Whether to unregister the versions, which is the default. If not, they stay registered, without replicas;
            ``set_model_version(name, version, num_replicas=1)`` starts replicas again.

        Raises
        ------
        UnconnectedException
            When not connected to a cluster.
        ClipperException
            When a program could not be stopped.
        """
        models = self._management.get_all_models(verbose=True)
        linked = {link for app in self._management.get_all_applications(verbose=True) for link in app["linked_models"]}
        inactive = self._registered(
            model
            for model in models
            if not model["is_current_version"] and f"{model['model_name']}:{model['model_version']}" not in linked
        )
        self._unregister_and_stop(self._of_names(inactive, model_names), inactive if unregister else {})

    def stop_all_model_containers(self) -> None:
        """Stop the replicas of all models and unregister the models.

        It works without `connect`, and when the frontends or Redis are dead; then a warning is logged that models could
        not be unregistered.

        Raises
        ------
        ClipperException
            When a program could not be stopped.
        """
        try:
            if not self.connected:
                self.cm.connect()
            self._unregister(self._registered(self._management_client.get_all_models(verbose=True)))
        except ClipperException as error:
            self.logger.warning("The models could not be unregistered: %s", error)
        self.cm.stop_all_model_containers()
        self.logger.info("Stopped all Clipper model containers")

    def stop_all(self, graceful: bool = True) -> None:
        """Stop all programs of this cluster, models included, and remove their files. It works without `connect`.

        A Redis that Clipper did not start goes on running.

        Parameters
        ----------
        graceful : bool, optional
            Whether programs finish their requests and batches first, which is the default; otherwise they are killed.

        Raises
        ------
        ClipperException
            When a program could not be stopped.
        """
        self.cm.stop_all(graceful=graceful)
        self.connected = False
        self.logger.info("Stopped all Clipper cluster and all model containers")

    def _registered(self, models: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
        """Model names with the versions that `models` describe."""
        versions: dict[str, list[str]] = {}
        for model in models:
            versions.setdefault(model["model_name"], []).append(model["model_version"])
        return versions

    def _of_names(self, models: Mapping[str, list[str]], names: str | Iterable[str]) -> dict[str, list[str]]:
        wanted = check_texts("model_names", [names] if isinstance(names, str) else names)
        for name in wanted:
            if name not in models:
                self.logger.info("Model %s has no versions to stop", name)
        return {name: models[name] for name in wanted if name in models}

    def _unregister_and_stop(self, models: Mapping[str, list[str]], registered: Mapping[str, list[str]]) -> None:
        # Unregister first: no query is sent to a replica that is about to stop, and its last batch is answered.
        self._unregister(
            {name: set(versions).intersection(registered.get(name, ())) for name, versions in models.items()}
        )
        self.cm.stop_models(models)
        for name, versions in models.items():
            self.logger.info("Stopped versions %s of model %s", ", ".join(versions), name)

    def _unregister(self, models: Mapping[str, Iterable[str]]) -> None:
        for name, versions in models.items():
            for version in versions:
                self._management_client.delete_versioned_model(name, version)
