"""The executor: all served model versions, all connected replicas, and which replica belongs to which version."""

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
from query_frontend.rpc.peer import was_closed
from query_frontend.rpc.server import ReplicaConnection
from query_frontend.rpc.strangers import most_containers
from query_frontend.serving.cache import PredictionCache
from query_frontend.serving.model_queue import Task
from query_frontend.serving.poison import BLAME_SECONDS
from query_frontend.serving.reasons import NO_MODELS
from query_frontend.serving.replica import ConnectedReplica, ReplicaTransport
from query_frontend.serving.replica_limit import UNREGISTERED, Group, ReplicaLimit
from query_frontend.serving.served_model import ModelContext, ServedModel

logger = logging.getLogger(__name__)

_AFTER_DEADLINE_SECONDS: Final = 0.05
_DEFAULT_SLO_SECONDS: Final = 1.0
"""The SLO of a model version that no application asks."""


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
        """Called when replicas came or went."""
        self._metrics = metrics
        self._context = ModelContext(loop, cache, _message_ids(), metrics.aggregate_outputs, blame_seconds)
        self._models: dict[ModelId, ServedModel] = {}
        self._replicas: dict[ReplicaConnection, ConnectedReplica] = {}
        self._of_model: dict[ModelId, dict[ReplicaConnection, ConnectedReplica]] = {}
        """The same by model version, which need not be registered. No entry is empty."""
        self._limit = ReplicaLimit(most_containers())
        self.uses_keys = cache.enabled
        """Whether the key of each input is looked up: not if the cache is off."""

    # --- what is there ---

    @property
    def connections(self) -> list[ReplicaConnection]:
        """The connections of all replicas that are our own, not relayed by another frontend."""
        return [connection for connection in self._replicas if not connection.metadata.is_relay]

    def direct_replicas(self) -> dict[ModelId, list[ReplicaConnection]]:
        """Return our own replicas that take batches, by model version; the version need not be registered yet."""
        found: dict[ModelId, list[ReplicaConnection]] = {}
        for connection in self.connections:
            if self._takes_batches(connection):
                found.setdefault(connection.metadata.model_id, []).append(connection)
        return found

    def is_direct(self, model_id: ModelId) -> bool:
        """Whether a model version has a replica of our own that takes batches."""
        alike = self._of_model.get(model_id, ())
        return any(self._takes_batches(one) for one in alike if not one.metadata.is_relay)

    def reachable_models(self) -> set[ModelId]:
        """Return the model versions that have a replica here, or one that is relayed to us."""
        return {connection.metadata.model_id for connection in self._replicas if self._takes_batches(connection)}

    def _takes_batches(self, connection: ReplicaConnection) -> bool:
        """Whether the replica takes batches, or will once its model version is registered."""
        replica = self._replicas[connection]
        is_used = replica.served_model is not None or connection.metadata.model_id not in self._models
        return is_used and not replica.is_draining

    def slo_seconds(self, model_id: ModelId) -> float | None:
        """Return the shortest SLO of the applications that ask a model version; None while it is not registered."""
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
            task.resolve(None, NO_MODELS, monotonic())
        else:
            model.submit(task)

    def fill(self, model_id: ModelId, steps: Iterator[None]) -> Iterator[None]:
        """Make `steps`, which submit many tasks of one request, as `ServedModel.fill` does."""
        model = self._models.get(model_id)
        return steps if model is None else model.fill(steps)

    def withdraw(self, task: Task, model_id: ModelId) -> None:
        """Stop waiting for the output of `task`: its deadline has passed, or its client has disconnected."""
        model = self._models.get(model_id)
        if model is None:
            task.withdraw()
        else:
            model.withdraw(task)

    # --- what the RPC server reports ---

    def on_replica_joined(self, connection: ReplicaConnection) -> str | None:
        metadata = connection.metadata
        model = self._models.get(metadata.model_id)
        if model is not None and model.record.input_type is not metadata.input_type:
            return (
                f"its input type is {metadata.input_type.canonical_name}, "
                f"{metadata.model_id} was registered with {model.record.input_type.canonical_name}"
            )
        if not (connection.replaces or self._make_room(metadata.model_id)):
            return self._why_refused(metadata.model_id)
        replica = ConnectedReplica(connection, self._rpc)
        self._replicas[connection] = replica
        self._of_model.setdefault(metadata.model_id, {})[connection] = replica
        self._limit.add(self._group(metadata.model_id), connection)
        logger.info("%s connected (RPC version %d)", connection, metadata.rpc_version)
        if model is not None:
            model.add_replica(replica)
        self._replicas_changed()
        return None

    def _group(self, model_id: ModelId) -> Group:
        return model_id if model_id in self._models else UNREGISTERED

    def _make_room(self, model_id: ModelId) -> bool:
        """Return whether one more replica of a model version may be connected. Another one may be refused for it."""
        if not self._limit.is_reached:
            return True
        replaced = self._limit.replaced_by(self._group(model_id))
        if replaced is not None:
            self._rpc.refuse(replaced, self._why_refused(replaced.metadata.model_id))
        return replaced is not None

    def _why_refused(self, model_id: ModelId) -> str:
        if model_id in self._models:
            holder, until = str(model_id), "when a container leaves"
        else:
            holder = "all model versions that are not registered"
            until = "when its model version is registered or a container leaves"
        return (
            f"{self._limit.most} containers are connected, the most that may be (see ulimit -n), and {holder} "
            f"cannot have more of these places; it is accepted {until}"
        )

    def on_batch_answered(self, connection: ReplicaConnection, response: Response) -> None:
        replica = self._replicas[connection]
        batch = replica.batch
        assert batch is not None, "the RPC server hands over answers to the batch that a replica has"
        model = batch.served_model
        if connection.awaited is not None:
            model.deliver(replica, batch, response)
        elif response.positions is not None or len(response.outputs) == len(batch.tasks):
            model.on_batch_answered(replica, batch, response)
        else:
            reason = f"it answered {len(batch.tasks)} inputs with {len(response.outputs)} outputs"
            self._rpc.disconnect(connection, reason)

    def on_replica_lost(self, connection: ReplicaConnection, reason: str) -> None:
        replica = self._replicas.pop(connection, None)
        if replica is None:
            return
        model_id = connection.metadata.model_id
        self._limit.remove(self._group(model_id), connection)
        alike = self._of_model[model_id]
        del alike[connection]
        if not alike:
            del self._of_model[model_id]
        logger.info("%s left: %s", connection, reason)
        replica.note_lost()
        model, batch = replica.served_model, replica.batch
        if model is not None:
            model.remove_replica(replica)
        if batch is not None:
            batch.served_model.retry_batch(batch, was_closed(reason) and not (replica.is_draining or replica.is_relay))
        self._replicas_changed()
        if model is not None:
            model.fail_tasks_if_unserved()

    def on_replica_draining(self, connection: ReplicaConnection) -> None:
        replica = self._replicas[connection]
        replica.drain()
        self._replicas_changed()
        if replica.served_model is not None:
            replica.served_model.exclude(replica)
            replica.served_model.fail_tasks_if_unserved()
        self._dismiss_if_idle(connection)

    def _dismiss_if_idle(self, connection: ReplicaConnection) -> None:
        """Release a draining replica, unless a task waits for its batch: then look again at the last deadline."""
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
        """Serve the models in `records` from now on, and stop serving those whose record is None.

        `slo_seconds` has the shortest SLO of the applications that ask each of them.
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
        for connection, replica in list(self._of_model.get(record.id, {}).items()):
            self._limit.remove(UNREGISTERED, connection)
            self._limit.add(record.id, connection)
            if connection.metadata.input_type is record.input_type:
                model.add_replica(replica)
            else:
                logger.warning("%s is not used: its input type differs", connection)

    def _remove(self, model: ServedModel) -> None:
        for gauge in (model.metrics.batching, model.metrics.blamed):
            gauge.read_with(dict)  # they refer to the model: nothing is left as a cycle
        self._metrics.remove_model(model.record.id)
        for connection in self._of_model.get(model.record.id, ()):
            self._limit.remove(model.record.id, connection)
            self._limit.add(UNREGISTERED, connection)
        model.close()
