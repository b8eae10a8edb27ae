"""Applications, links and current versions in memory, made from the latest snapshot of the configuration.

A change costs what it changes: only the applications and model versions that it affects are made anew.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Final, TypeVar

from clipper_common import jsontext, long_work
from clipper_common.config_copy import Update
from clipper_common.datatypes import Link, ModelId
from clipper_common.errors import PolicyError, QueryError
from clipper_common.layout import LAYOUT, Collection, Place
from clipper_common.long_work import Steps
from clipper_common.records import Application, Model
from clipper_common.selection_policies import Single, Split, is_header_key, read_policy
from clipper_common.snapshot import Snapshot
from query_frontend.monitoring.metrics import AppMetrics, ArmCounters, ArmMetrics, SystemMetrics
from query_frontend.selection.split import WeightedSplit
from query_frontend.serving.answers import Default, Waited

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 25
"""The most model versions, or records of a change, in one step."""
_COST_AT_ONCE: Final = 1 << 16
"""The cost of the applications that are made in one step, in characters of default outputs, which are made JSON."""
_COST_OF_APP: Final = _COST_AT_ONCE // 25
"""The cost of an application beside its default output."""

_COST_OF_LINK: Final = _COST_OF_APP // 8
"""The cost of each link but the first."""

ModelsChanged = Callable[[Mapping[ModelId, Model | None], Mapping[ModelId, float]], None]
"""The callback for changed model versions: each as it is now (None if it was removed), and the shortest SLO of the
applications that ask it."""


class AppState:
    """An application as its queries need it."""

    def __init__(
        self, app: Application, linked: tuple[str, ...], model_id: ModelId | None, metrics: AppMetrics
    ) -> None:
        self.record = app
        self.linked = linked
        """The names of the models that it is linked to."""
        self.model_id = model_id
        """The current version of its linked model, if there is one."""
        self.metrics = metrics
        self.input_type = app.input_type
        self.missing_values = app.missing_values
        self.slo_seconds = app.slo_seconds
        self.default_output = jsontext.embed(app.default_output.encode())
        self.chooser: ArmChooser | None = None
        """Chooses the arm of each query; None with the selection policy `single`."""

    def default_answer(self, reason: str, waited: Waited | None = None) -> Default:
        return Default(self.default_output, reason, waited)


class ArmState(AppState):
    """The state of an application for queries that its selection policy has given to one of its links."""

    def __init__(self, of_app: AppState, link: str, model_id: ModelId | None, counters: ArmCounters) -> None:
        self.record = of_app.record
        self.linked = of_app.linked
        self.model_id = model_id
        self.metrics = ArmMetrics(of_app.metrics, counters)
        self.input_type = of_app.input_type
        self.missing_values = of_app.missing_values
        self.slo_seconds = of_app.slo_seconds
        self.default_output = of_app.default_output
        self.chooser = None
        self.link = link


class ArmChooser:
    """Chooses an arm for each query by the policy `split`."""

    def __init__(self, policy: Split, arms: Sequence[ArmState]) -> None:
        self.policy = policy.name
        self.by_uid = policy.sticky_key == "uid"
        self.header = policy.sticky_key.removeprefix("header:") if is_header_key(policy.sticky_key) else ""
        """The name of the header whose value is the sticky key; empty if another thing or nothing is."""
        self.model_ids = list(dict.fromkeys(arm.model_id for arm in arms if arm.model_id is not None))
        """The model versions that may be asked."""
        self._arms = {arm.link: arm for arm in arms}
        self._split = WeightedSplit(policy.weights_of(self._arms))
        self._random = Random()

    def choose(self, key: bytes) -> ArmState:
        """Return the arm of a sticky key; of an empty one any arm, by weight."""
        split = self._split
        return self._arms[split.by_key(key) if key else split.at_random(self._random)]

    def share_of(self, link: str) -> float:
        """Return the share of all queries that a link gets."""
        return self._split.probability(link)


class Registry:
    """The applications by name, each with the model version that answers it, as of the last snapshot.

    It owns the `AppState` of each application, and the indices by which it finds what a change affects. The follower of
    the configuration calls `apply`, which tells the executor of changed model versions by `models_changed`; the HTTP
    handlers and the fast path call `app` for each request. All calls are made on the event loop of the frontend.
    """

    def __init__(self, metrics: SystemMetrics, models_changed: ModelsChanged) -> None:
        self._metrics = metrics
        self._models_changed = models_changed
        self._apps: dict[str, AppState] = {}
        self._asked_by: dict[str, set[str]] = {}
        """The applications that are linked to a model, by its name."""
        self._versions: dict[str, set[str]] = {}
        """The versions of a model, by its name."""
        self._snapshot = Snapshot()
        self._revision = 0
        self._loaded = asyncio.Event()

    @property
    def is_loaded(self) -> bool:
        """Whether the configuration was read once."""
        return self._loaded.is_set()

    async def wait_until_loaded(self, seconds: float) -> None:
        """Wait for the first configuration, `seconds` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._loaded.wait()

    @property
    def revision(self) -> int:
        """The revision of the configuration that is served."""
        return self._revision

    def app(self, name: str) -> AppState | None:
        return self._apps.get(name)

    def choose_model(self, app: AppState, version: str | None) -> ModelId | None:
        """Return the model version that answers a query of `app`, None when there is none.

        Raises `QueryError` when `version` is asked for and cannot be had.
        """
        if version is None:
            return app.model_id
        if len(app.linked) > 1:
            raise QueryError(f"Too many models linked to application {app.record.name}")
        if not app.linked:
            raise QueryError(f"No model is linked to application {app.record.name}, so it has no version {version}")
        model = ModelId(app.linked[0], version)
        if not self._takes(app.record, model):
            raise QueryError(f"Requested version: {version} does not exist for model: {app.linked[0]}")
        return model

    async def apply(self, update: Update) -> None:
        """Serve by the update from now on. If it changes much, this is done in steps of long work."""
        self._snapshot = update.snapshot
        await long_work.finish(self._apply(update.changed))
        self._revision = update.snapshot.revision
        self._loaded.set()

    def _apply(self, changed: Iterable[Place]) -> Steps[None]:
        apps, models = yield from self._affected_by(changed)
        slos: dict[str, float | None] = {}
        for some_models in _parts(models):  # first the queues, then who asks them
            for name in {model.name for model in some_models} - slos.keys():
                slos[name] = self._shortest_slo(name)
            self._models_changed(
                {model: self._snapshot.models.get(model) for model in some_models},
                {model: slo for model in some_models if (slo := slos[model.name]) is not None},
            )
            yield
        yield from self._make_apps(apps)

    def _affected_by(self, changed: Iterable[Place]) -> Steps[tuple[set[str], set[ModelId]]]:
        """Return the applications and the model versions that must be made anew, and update the indices by model."""
        apps: set[str] = set()
        models: set[ModelId] = set()
        model_names: set[str] = set()
        for number, (collection, name) in enumerate(_records_at(changed), 1):
            if number % _AT_ONCE == 0:
                yield
            if collection in (LAYOUT.applications, LAYOUT.links):
                apps.add(name)
            elif collection is LAYOUT.models:
                model = ModelId.parse(name)
                models.add(model)
                self._index(self._versions, model.name, model.version, model in self._snapshot.models)
            else:
                model_names.add(name)
        model_names.update(model.name for model in models)
        for name in model_names:
            apps |= self._asked_by.get(name, set())
        for name in (yield from self._index_links(apps)):
            for versions in _parts(self._versions.get(name, ())):
                models.update(ModelId(name, version) for version in versions)
                yield
        return apps, models

    def _index_links(self, apps: Iterable[str]) -> Steps[set[str]]:
        """Follow the links of applications. Return the names of all models that one of them asks, or asked before."""
        asked: set[str] = set()
        for number, app in enumerate(apps, 1):
            if number % _AT_ONCE == 0:
                yield
            before = self._apps[app].linked if app in self._apps else ()
            now = self._linked_models(app) if app in self._snapshot.applications else ()
            for name in (*before, *now):
                self._index(self._asked_by, name, app, name in now)
                asked.add(name)
        return asked

    @staticmethod
    def _index(index: dict[str, set[str]], name: str, entry: str, is_there: bool) -> None:
        if is_there:
            index.setdefault(name, set()).add(entry)
        elif name in index:
            index[name].discard(entry)
            if not index[name]:
                del index[name]

    def _make_apps(self, names: Iterable[str]) -> Steps[None]:
        cost = 0
        for name in names:
            app = self._snapshot.applications.get(name)
            if app is not None:
                self._apps[name] = self._make_app(app)
                cost += len(app.default_output) + _COST_OF_LINK * max(len(self._snapshot.links_of(name)) - 1, 0)
            elif self._apps.pop(name, None) is not None:
                self._metrics.remove_app(name)
            cost += _COST_OF_APP
            if cost >= _COST_AT_ONCE:
                cost = 0
                yield

    def _linked_models(self, app_name: str) -> tuple[str, ...]:
        """Return the names of linked models, each once."""
        return tuple(dict.fromkeys(link.model_name for link in self._snapshot.links_of(app_name)))

    def _make_app(self, app: Application) -> AppState:
        links = self._snapshot.links_of(app.name)
        policy = _policy_of(app, links)
        known = self._apps.get(app.name)
        metrics = known.metrics if known else self._metrics.add_app(app.name)
        counters = metrics.count_arms(map(str, links) if policy else ())
        models = {link: self._model_of(app, link) for link in links}
        model = next((models[link] for link in links if models[link] is not None), None)
        made = AppState(app, self._linked_models(app.name), model, metrics)
        if policy is not None:
            made.chooser = ArmChooser(
                policy, [ArmState(made, str(link), models[link], counters[str(link)]) for link in links]
            )
        return made

    def _model_of(self, app: Application, link: Link) -> ModelId | None:
        """Return the model version that answers what is given to a link, if there is one."""
        name, version = link.model_name, link.version or self._snapshot.current_versions.get(link.model_name)
        return ModelId(name, version) if version is not None and self._takes(app, ModelId(name, version)) else None

    def _takes(self, app: Application, model_id: ModelId) -> bool:
        model = self._snapshot.models.get(model_id)
        if model is not None and model.input_type is not app.input_type:
            logger.warning("application %s cannot ask %s: their input types differ", app.name, model_id)
            return False
        return model is not None

    def _shortest_slo(self, model_name: str) -> float | None:
        apps = self._snapshot.applications
        return min((apps[name].slo_seconds for name in self._asked_by.get(model_name, ())), default=None)


def _policy_of(app: Application, links: Sequence[Link]) -> Split | None:
    """Return the policy that chooses among the links of an application, if there is one.

    What a later version may have written is not an error: the first link answers then.
    """
    if app.selection is None:
        return None
    try:
        policy = read_policy(app.selection.policy, app.selection.options, map(str, links))
    except PolicyError as error:
        logger.warning("application %s is served as with the selection policy 'single': %s", app.name, error)
        return None
    if not isinstance(policy, Split | Single):
        logger.warning("application %s has a selection policy that this version does not have", app.name)
    return policy if isinstance(policy, Split) else None


Thing = TypeVar("Thing")


def _records_at(places: Iterable[Place]) -> Iterator[tuple[Collection, str]]:
    """Yield the collection and the name of each record in `places` that is in a collection."""
    for place in places:
        if (collection := LAYOUT.collection_at(place)) is not None:
            yield collection, collection.record_name(place.key)


def _parts(things: Iterable[Thing]) -> Iterator[list[Thing]]:
    ordered = list(things)
    return (ordered[begin : begin + _AT_ONCE] for begin in range(0, len(ordered), _AT_ONCE))
