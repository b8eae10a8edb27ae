"""All model versions that are served, all replicas that are connected, and which of these belongs to which of those."""

import itertools
import logging
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Final

from clipper_common.datatypes import ModelId
from clipper_common.records import Model
from clipper_common.wire import MESSAGE_ID_LIMIT, Response
from query_frontend.monitoring.metrics import SystemMetrics
from query_frontend.rpc.peer import has_ended
from query_frontend.rpc.server import Connection
from query_frontend.rpc.strangers import most_unregistered
from query_frontend.serving.cache import PredictionCache
from query_frontend.serving.model_queue import Task
from query_frontend.serving.poison import BLAME_SECONDS
from query_frontend.serving.reasons import NO_MODELS
from query_frontend.serving.replica import ConnectedReplica, ReplicaTransport
from query_frontend.serving.served_model import ModelContext, ServedModel

logger = logging.getLogger(__name__)

_AFTER_DEADLINE_SECONDS: Final = 0.05
_DEFAULT_SLO_SECONDS: Final = 1.0
"""This SLO is taken for a model version that no application asks."""


def _message_ids() -> Iterator[int]:
    """Yield the ids of batches, again from 0 after the last. (`itertools.cycle` would keep all that it has yielded.)"""
    return map(MESSAGE_ID_LIMIT.__rmod__, itertools.count())


class Executor:
    """The executor gets each task done by some replica of its model version."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        rpc: ReplicaTransport,
        cache: PredictionCache,
        metrics: SystemMetrics,
        replicas_changed: Callable[[], None] = lambda: None,
        blame_seconds: float = BLAME_SECONDS,
    ) -> None:
        self._loop = loop
        self._rpc = rpc
        self._replicas_changed = replicas_changed
        """It is called when replicas came or went."""
        self._metrics = metrics
        self._context = ModelContext(loop, cache, _message_ids(), metrics.aggregate_outputs, blame_seconds)
        self._models: dict[ModelId, ServedModel] = {}
        self._replicas: dict[Connection, ConnectedReplica] = {}
        self._unregistered: set[Connection] = set()
        """The connections of replicas whose model versions are not registered."""
        self._most_unregistered = most_unregistered()
        self.uses_keys = cache.enabled
        """Whether the key of each input is looked up: not if the cache is off."""

    # --- what is there ---

    @property
    def connections(self) -> list[Connection]:
        """The connections of all replicas that are our own, not relayed by another frontend."""
        return [connection for connection in self._replicas if not connection.metadata.is_relay]

    def direct_replicas(self) -> dict[ModelId, list[Connection]]:
        """Our own replicas that take batches, by model version; the version need not be registered yet."""
        found: dict[ModelId, list[Connection]] = {}
        for connection in self.connections:
            if self._takes_batches(connection):
                found.setdefault(connection.metadata.model, []).append(connection)
        return found

    def reachable_models(self) -> set[ModelId]:
        """The model versions that have a replica here, or one that is relayed to us."""
        return {connection.metadata.model for connection in self._replicas if self._takes_batches(connection)}

    def _takes_batches(self, connection: Connection) -> bool:
        """Whether the replica takes batches, or will once its model version is registered."""
        replica = self._replicas[connection]
        is_used = replica.model is not None or connection.metadata.model not in self._models
        return is_used and not replica.is_draining

    def slo_seconds(self, model_id: ModelId) -> float | None:
        """The shortest SLO of the applications that ask a model version; None while it is not registered."""
        model = self._models.get(model_id)
        return None if model is None else model.slo_seconds

    def can_answer(self, model_id: ModelId) -> bool:
        """Whether a replica of the model version is here, or none is needed: it is not registered."""
        model = self._models.get(model_id)
        return model is None or model.replicas.is_served

    # --- tasks ---

    def submit(self, model_id: ModelId, task: Task) -> None:
        """Get `task` its output, which it may have at once."""
        model = self._models.get(model_id)
        if model is None:
            task.take(None, NO_MODELS, monotonic())
        else:
            model.submit(task)

    def fill(self, model_id: ModelId, steps: Iterator[None]) -> Iterator[None]:
        """Make `steps`, which submit many tasks of one request, as `ServedModel.fill` does."""
        model = self._models.get(model_id)
        return steps if model is None else model.fill(steps)

    def leave(self, task: Task, model_id: ModelId) -> None:
        """`task` has no more use for its output: its time is over, or its client left."""
        model = self._models.get(model_id)
        if model is None:
            task.leave()
        else:
            model.leave(task)

    # --- what the RPC server reports ---

    def on_joined(self, connection: Connection) -> str | None:
        metadata = connection.metadata
        model = self._models.get(metadata.model)
        if model is not None and model.record.input_type is not metadata.input_type:
            return (
                f"its input type is {metadata.input_type.canonical_name}, "
                f"{metadata.model} was registered with {model.record.input_type.canonical_name}"
            )
        if model is None:
            if len(self._unregistered) >= self._most_unregistered:
                return (
                    f"{self._most_unregistered} containers of model versions that are not registered are connected, "
                    "the most that may be (see ulimit -n); it is accepted when its model version is registered, or "
                    "when one of them leaves"
                )
            self._unregistered.add(connection)
        replica = ConnectedReplica(connection, self._rpc)
        self._replicas[connection] = replica
        logger.info("%s connected (RPC version %d)", connection, metadata.rpc_version)
        if model is not None:
            model.attach(replica)
        self._replicas_changed()
        return None

    def on_answered(self, connection: Connection, response: Response) -> None:
        replica = self._replicas[connection]
        batch = replica.batch
        assert batch is not None, "the RPC server hands over answers to the batch that a replica has"
        model = batch.model
        if connection.awaited is not None:
            model.deliver(replica, batch, response)
        elif response.positions is not None or len(response.outputs) == len(batch.tasks):
            model.take_answer(replica, batch, response)
        else:
            reason = f"it answered {len(batch.tasks)} inputs with {len(response.outputs)} outputs"
            self._rpc.disconnect(connection, reason)

    def on_left(self, connection: Connection, reason: str) -> None:
        replica = self._replicas.pop(connection, None)
        if replica is None:
            return
        self._unregistered.discard(connection)
        logger.info("%s left: %s", connection, reason)
        replica.leave()
        model, batch = replica.model, replica.batch
        if model is not None:
            model.detach(replica)
        if batch is not None:
            batch.model.retry(batch, has_ended(reason) and not (replica.is_draining or replica.is_relay))
        self._replicas_changed()
        if model is not None:
            model.give_up_if_unserved()

    def on_draining(self, connection: Connection) -> None:
        replica = self._replicas[connection]
        replica.drain()
        self._replicas_changed()
        if replica.model is not None:
            replica.model.pass_over(replica)
            replica.model.give_up_if_unserved()
        self._dismiss_if_idle(connection)

    def _dismiss_if_idle(self, connection: Connection) -> None:
        """Let a draining replica go, unless somebody waits for its batch: then look again at the last deadline."""
        replica = self._replicas.get(connection)
        if replica is None:
            return
        now = monotonic()
        last = None if replica.batch is None else replica.batch.last_deadline(now)
        if last is None:
            self._rpc.release(connection)
        else:
            self._loop.call_later(last - now + _AFTER_DEADLINE_SECONDS, self._dismiss_if_idle, connection)

    # --- configuration ---

    def configure(self, records: Mapping[ModelId, Model | None], slo_seconds: Mapping[ModelId, float]) -> None:
        """Serve the models in `records` from now on, or no more where there is none.

        `slo_seconds` is the shortest SLO of those who ask each of them.
        """
        for model_id, record in records.items():
            model = self._models.get(model_id)
            if model is not None and not model.is_of(record):
                self._remove(self._models.pop(model_id))
                model = None
            slo = slo_seconds.get(model_id, _DEFAULT_SLO_SECONDS)
            if model is not None and record is not None:
                model.reconfigure(record, slo)
            elif record is not None:
                self._add(record, slo)

    def _add(self, record: Model, slo_seconds: float) -> None:
        metrics = self._metrics.add_model(record.id)
        model = self._models[record.id] = ServedModel(record, slo_seconds, metrics, self._context)
        metrics.batching.read_with(model.batching)
        metrics.blamed.read_with(model.blamed)
        for connection, replica in self._replicas.items():
            if connection.metadata.model != record.id:
                continue
            self._unregistered.discard(connection)
            if connection.metadata.input_type is record.input_type:
                model.attach(replica)
            else:
                logger.warning("%s is not used: its input type differs", connection)

    def _remove(self, model: ServedModel) -> None:
        for gauge in (model.metrics.batching, model.metrics.blamed):
            gauge.read_with(dict)  # they refer to the model: nothing is left as a cycle
        self._metrics.remove_model(model.record.id)
        self._unregistered.update(one for one in self._replicas if one.metadata.model == model.record.id)
        model.close()
