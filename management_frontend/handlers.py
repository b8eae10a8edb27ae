"""The routes: parse a request, call a rule or a view, and answer."""

import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from aiohttp import web

from clipper_common.body_budget import BodyBudget, OverBudgetError
from clipper_common.config_store import ConfigStore
from clipper_common.datatypes import ModelId
from clipper_common.errors import QueryError, RequestError
from clipper_common.http_server import json_response
from clipper_common.membership_store import MembershipStore
from clipper_common.redis_client import StoreError
from clipper_common.snapshot import Snapshot
from clipper_common.webapp import Handler, read_body
from management_frontend import link_rules, rules, schemas, views
from management_frontend.origins import Border
from management_frontend.places import places_of
from management_frontend.rules import Change
from management_frontend.schemas import AnyRequest
from management_frontend.service import ChangeService
from management_frontend.wrong import WrongRecordError

STORE: Final = web.AppKey("store", ConfigStore)
MEMBERS: Final = web.AppKey("members", MembershipStore)
SERVICE: Final = web.AppKey("service", ChangeService)
FOLLOW_WORKERS: Final = web.AppKey("follow_workers", bool)
BORDER: Final = web.AppKey("border", Border)
BUDGET: Final = web.AppKey("budget", BodyBudget)
"""The memory budget of the request bodies that are being read."""

_SMALL_BYTES: Final = 1 << 16
"""Bodies up to this size do not wait for memory."""

_BUSY: Final = "Other requests with large bodies take the memory that there is for them: ask again"

Source = TypeVar("Source")


@web.middleware
async def refuse_web_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse requests that a web page of another origin may have sent, on all routes."""
    refusal = request.app[BORDER].refusal(request.headers)
    if refusal is not None:
        raise web.HTTPForbidden(text=refusal)
    return await handler(request)


@web.middleware
async def errors_as_text(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors as plain text, as Clipper 0.4 does. Errors that 0.4 does not have are JSON."""
    try:
        return await handler(request)
    except WrongRecordError as error:
        return json_response({"error": error.label, "cause": str(error)}, error.status)
    except OverBudgetError:
        response = json_response({"error": "Service Unavailable", "cause": _BUSY}, status=503)
        response.headers["Retry-After"] = "1"
        response.force_close()  # its body was not read
        return response
    except RequestError as error:
        return web.Response(text=str(error), status=error.status)
    except StoreError as error:
        text = f"Redis at {request.app[STORE].address} does not answer: {error}. Try again when it does."
        return web.Response(text=text, status=503)


async def ping(_: web.Request) -> web.Response:
    return web.Response(text="PONG")


async def _read(request: web.Request, shape: type[AnyRequest]) -> AnyRequest:
    """Read and parse a request. Only a few large bodies are read at a time; the others wait."""
    length = request.client_max_size if request.content_length is None else request.content_length
    if length <= _SMALL_BYTES:
        return schemas.parse(shape, await read_body(request))
    budget = request.app[BUDGET]
    with budget.count() as held:
        return schemas.parse(shape, await read_body(request, read=partial(budget.read, held=held)))


def changes(shape: type[AnyRequest], rule: Callable[[Snapshot, AnyRequest], Change]) -> Handler:
    """Return a handler that changes the configuration by `rule` and answers with text."""

    async def handle(request: web.Request) -> web.Response:
        wanted = await _read(request, shape)
        places = places_of(wanted, request.app[STORE].known)
        return web.Response(text=await request.app[SERVICE].change(lambda snapshot: rule(snapshot, wanted), places))

    return handle


def answers(
    shape: type[AnyRequest],
    read: Callable[[web.Application, AnyRequest], Awaitable[Source]],
    view: Callable[[Source, AnyRequest], object],
) -> Handler:
    """Return a handler that answers with JSON: `view` applied to the result of `read`."""

    async def handle(request: web.Request) -> web.Response:
        wanted = await _read(request, shape)
        return json_response(view(await read(request.app, wanted), wanted))

    return handle


def _add_model(snapshot: Snapshot, wanted: schemas.AddModel) -> Change:
    return rules.add_model(snapshot, wanted, registration=uuid.uuid4().hex)


_set_workers = changes(schemas.SetWorkers, rules.set_query_frontend_workers)


async def set_query_frontend_workers(request: web.Request) -> web.StreamResponse:
    if not request.app[FOLLOW_WORKERS]:
        raise QueryError(
            "The query frontends of this cluster keep to their --workers. On Kubernetes that is an argument of their "
            "Deployment: change it there, together with the CPU and memory that are requested for so many, or let "
            "set_num_frontend_replicas start more pods."
        )
    return await _set_workers(request)


async def get_frontends_without_replica(request: web.Request) -> web.Response:
    """Answer with the query frontends that cannot reach a replica of a model version, directly or by a relay."""
    wanted = await _read(request, schemas.VersionedModel)
    model = ModelId(wanted.model_name, wanted.model_version)
    return json_response(await request.app[MEMBERS].not_reaching(model))


async def get_state(request: web.Request) -> web.Response:
    wanted = await _read(request, schemas.SelectionState)
    return web.Response(text=views.selection_state(await _read_named(request.app, wanted), wanted))


async def _read_all(app: web.Application, _: object) -> Snapshot:
    return await app[STORE].read()


async def _read_named(app: web.Application, wanted: object) -> Snapshot:
    store = app[STORE]
    return await store.read_latest(*places_of(wanted, store.known))


async def _read_replicas(app: web.Application, _: object) -> views.Replicas:
    return await app[MEMBERS].read_replica_records()


def _one(shape: type[AnyRequest], view: Callable[[Snapshot, AnyRequest], object]) -> Handler:
    return answers(shape, _read_named, view)


_list = partial(answers, schemas.Listing, _read_all)

ROUTES: Final = [
    web.get("/admin/ping", ping),
    web.post("/admin/add_app", changes(schemas.AddApplication, rules.add_application)),
    web.post("/admin/delete_app", changes(schemas.NamedApplication, rules.delete_application)),
    web.post("/admin/add_model_links", changes(schemas.ModelLinks, link_rules.add_model_links)),
    web.post("/admin/delete_model_links", changes(schemas.ModelLinks, link_rules.delete_model_links)),
    web.post("/admin/set_selection_policy", changes(schemas.SetSelectionPolicy, link_rules.set_selection_policy)),
    web.post("/admin/get_selection_policy", _one(schemas.AppSelection, views.selection_policy)),
    web.post("/admin/delete_selection_state", changes(schemas.AppSelection, link_rules.delete_selection_state)),
    web.post("/admin/add_model", changes(schemas.AddModel, _add_model)),
    web.post("/admin/delete_versioned_model", changes(schemas.VersionedModel, rules.delete_versioned_model)),
    web.post("/admin/set_model_version", changes(schemas.VersionedModel, rules.set_model_version)),
    web.post("/admin/set_batching", changes(schemas.SetBatching, rules.set_batching)),
    web.post("/admin/set_query_frontend_workers", set_query_frontend_workers),
    web.post("/admin/get_query_frontend_workers", _one(schemas.Nothing, views.query_frontend_workers)),
    web.post("/admin/get_all_applications", _list(views.applications)),
    web.post("/admin/get_application", _one(schemas.NamedApplication, views.application)),
    web.post("/admin/get_linked_models", _one(schemas.LinkedModels, views.linked_models)),
    web.post("/admin/get_all_models", _list(views.models)),
    web.post("/admin/get_model", _one(schemas.VersionedModel, views.model)),
    web.post("/admin/get_all_containers", answers(schemas.Listing, _read_replicas, views.replicas)),
    web.post("/admin/get_container", answers(schemas.NumberedReplica, _read_replicas, views.replica)),
    web.post("/admin/get_frontends_without_replica", get_frontends_without_replica),
    web.post("/admin/get_state", get_state),
]
