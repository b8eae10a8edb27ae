"""Applications, links and current versions in memory, made from the latest snapshot of the configuration."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from clipper_common import jsontext
from clipper_common.datatypes import ModelId
from clipper_common.errors import QueryError
from clipper_common.records import Application, Snapshot
from query_frontend.metrics import AppMetrics, SystemMetrics
from query_frontend.schemas import Default

logger = logging.getLogger(__name__)

ModelsChanged = Callable[[Snapshot, Mapping[ModelId, float]], None]


class AppState:
    """An application as its queries need it."""

    def __init__(self, app: Application, linked: tuple[str, ...], model: ModelId | None, metrics: AppMetrics) -> None:
        self.record = app
        self.linked = linked
        self.model = model
        """The current version of its linked model, if there is one."""
        self.metrics = metrics
        self.input_type = app.input_type
        self.missing_values = app.missing_values
        self.slo_seconds = app.slo_seconds
        self._default_output = jsontext.embed(app.default_output.encode())

    def default_answer(self, reason: str) -> Default:
        return Default(self._default_output, reason)


class Registry:
    def __init__(self, metrics: SystemMetrics, models_changed: ModelsChanged) -> None:
        self._metrics = metrics
        self._models_changed = models_changed
        self._apps: dict[str, AppState] = {}
        self._snapshot = Snapshot()
        self._loaded = asyncio.Event()

    @property
    def is_loaded(self) -> bool:
        """Whether the configuration was read once."""
        return self._loaded.is_set()

    async def wait_until_loaded(self, seconds: float) -> None:
        """Wait for the first configuration, but not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._loaded.wait()

    @property
    def revision(self) -> int:
        return self._snapshot.revision

    def app(self, name: str) -> AppState | None:
        return self._apps.get(name)

    def choose_model(self, app: AppState, version: str | None) -> ModelId | None:
        """The model version that answers a query of `app`, None when there is none.

        Raises `QueryError` when `version` is asked for and cannot be had.
        """
        if version is None:
            return app.model
        if len(app.linked) > 1:
            raise QueryError(f"Too many models linked to application {app.record.name}")
        if not app.linked:
            raise QueryError(f"No model is linked to application {app.record.name}, so it has no version {version}")
        model = ModelId(app.linked[0], version)
        if not self._takes(app.record, model):
            raise QueryError(f"Requested version: {version} does not exist for model: {app.linked[0]}")
        return model

    def apply(self, snapshot: Snapshot) -> None:
        """Serve by `snapshot` from now on."""
        self._snapshot = snapshot
        apps = {name: self._make_app(app) for name, app in snapshot.applications.items()}
        for name in self._apps.keys() - apps.keys():
            self._metrics.remove_app(name)
        self._models_changed(snapshot, self._shortest_slos())  # first the queues, then who asks them
        self._apps = apps
        self._loaded.set()

    def _make_app(self, app: Application) -> AppState:
        linked = self._snapshot.links.get(app.name, ())
        known = self._apps.get(app.name)
        metrics = known.metrics if known else self._metrics.add_app(app.name)
        return AppState(app, linked, self._current_model(app, linked), metrics)

    def _current_model(self, app: Application, linked: tuple[str, ...]) -> ModelId | None:
        for name in linked:
            version = self._snapshot.current_versions.get(name)
            if version is not None and self._takes(app, ModelId(name, version)):
                return ModelId(name, version)
        return None

    def _takes(self, app: Application, model_id: ModelId) -> bool:
        model = self._snapshot.models.get(model_id)
        if model is not None and model.input_type is not app.input_type:
            logger.warning("application %s cannot ask %s: their input types differ", app.name, model_id)
            return False
        return model is not None

    def _shortest_slos(self) -> dict[ModelId, float]:
        shortest: dict[str, float] = {}
        for app in self._snapshot.applications.values():
            for name in self._snapshot.links.get(app.name, ()):
                shortest[name] = min(shortest.get(name, app.slo_seconds), app.slo_seconds)
        return {model: shortest[model.name] for model in self._snapshot.models if model.name in shortest}
