"""ManifestFiles: the manifests of a cluster and of its models as files, instead of applied."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipper_admin import images
from clipper_admin.arguments import check_frontend_options
from clipper_admin.files import explained
from clipper_admin.frontend_options import FrontendOptions
from clipper_admin.kubernetes import export, manifests
from clipper_admin.kubernetes.api import Api
from clipper_admin.kubernetes.spec import Cluster
from clipper_admin.model_spec import ModelSpec
from clipper_admin.resources import UNLIMITED, Resources
from clipper_common import constants


class ManifestFiles(ABC):
    """The part of `KubernetesContainerManager` that writes manifests into folders."""

    _api: Api

    @property
    @abstractmethod
    def _present(self) -> Cluster:
        """The cluster as it runs, or as it would be started."""

    @abstractmethod
    def _objects(self, options: FrontendOptions) -> list[dict[str, Any]]:
        """Return all objects of the cluster but its models."""

    def export(
        self,
        folder: str | Path,
        query_frontend_image: str = images.image_name(images.QUERY_FRONTEND),
        mgmt_frontend_image: str = images.image_name(images.MANAGEMENT_FRONTEND),
        frontend_exporter_image: str = images.image_name(images.FRONTEND_EXPORTER),
        cache_size: int = constants.DEFAULT_PREDICTION_CACHE_SIZE_BYTES,
        qf_http_thread_pool_size: int = 1,
        qf_http_timeout_request: int = constants.IDLE_CONNECTION_SECONDS,
        qf_http_timeout_content: int = 300,
        num_frontend_replicas: int = 1,
        workers: int = 1,
        *,
        query_frontend_flags: Mapping[str, int] | None = None,
        mgmt_frontend_flags: Mapping[str, Iterable[str]] | None = None,
        fits_server: bool = False,
    ) -> list[str]:
        """Write what `start_clipper` would apply into a folder, as YAML. Needs no cluster.

        ``kubectl apply -f folder`` then starts the cluster, and ``connect()`` finds it.

        Parameters
        ----------
        folder : str
            It is made if need be.
        query_frontend_image, mgmt_frontend_image, frontend_exporter_image, cache_size, qf_http_thread_pool_size, \
qf_http_timeout_request, qf_http_timeout_content, num_frontend_replicas, workers, query_frontend_flags, \
mgmt_frontend_flags
            As in ``ClipperConnection.start_clipper``.
        fits_server : bool, optional
            Ask the API server which API groups it offers, and write older ones where it has nothing better.

        Returns
        -------
        list of str
            The paths of the files, in the order in which they are to be applied.
        """
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
        objects = self._objects(options)
        return self._write(folder, objects, fits_server)

    def export_model(
        self,
        folder: str | Path,
        name: str,
        version: str,
        input_type: str,
        image: str,
        num_replicas: int = 1,
        resources: Resources = UNLIMITED,
        *,
        fits_server: bool = False,
        load_seconds: float = constants.LOAD_SECONDS,
    ) -> list[str]:
        """Write what ``ClipperConnection.deploy_model`` would apply into a folder, as YAML. Needs no cluster.

        Once it was applied, ``ClipperConnection.register_model`` sends queries there.

        Parameters
        ----------
        folder : str
            It is made if need be.
        name, version, input_type, image, num_replicas
            As in ``ClipperConnection.deploy_model``.
        resources : Resources, optional
            The most that each replica may use.
        fits_server : bool, optional
            As in `export`.
        load_seconds : float, optional
            How long a replica may take to load the model. Kubernetes starts it anew after an hour, or after twice this
            time if that is longer.

        Returns
        -------
        list of str
            The paths of the files.
        """
        model = ModelSpec(name, str(version), input_type, image, num_replicas, resources, load_seconds)
        return self._write(folder, manifests.model_objects(self._present, model), fits_server)

    def _write(self, folder: str | Path, objects: Sequence[dict[str, Any]], fits_server: bool) -> list[str]:
        if fits_server:
            objects = [self._api.fitted(object_) for object_ in objects]
        return write(Path(folder).expanduser().absolute(), export.files(objects))


def write(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Write texts by file names, and return the paths. Files with a former state of the same objects are removed."""
    with explained(f"The manifests cannot be written to {folder}", "Name a folder that this user may write to."):
        folder.mkdir(parents=True, exist_ok=True)
        for former in export.replaced(files, [path.name for path in folder.iterdir()]):
            (folder / former).unlink()
        for name, text in files.items():
            (folder / name).write_text(text)
    return [str(folder / name) for name in files]
