"""Every route: what it answers, and every text it refuses with (literally Clipper 0.4's where that had one)."""

import asyncio
from typing import Any, NamedTuple

import pytest
from aiohttp.test_utils import TestClient, TestServer

from clipper_common.config_store import ConfigStore
from clipper_common.datatypes import InputType, ModelId
from clipper_common.membership_store import MembershipStore
from clipper_common.records import FrontendReport, Replica
from management_frontend import app
from management_frontend.config import Config
from management_frontend.handlers import ROUTES

Post = tuple[str, dict[str, Any]]


def add_app(**changes: Any) -> Post:
    body = {"name": "app", "input_type": "ints", "default_output": "-1", "latency_slo_micros": 20000}
    return "add_app", body | changes


def add_model(**changes: Any) -> Post:
    body = {
        "model_name": "m",
        "model_version": "1",
        "labels": ["a", "b"],
        "input_type": "ints",
        "container_name": "image:1",
        "model_data_path": "DEPRECATED",
        "batch_size": -1,
    }
    return "add_model", body | changes


def link(*models: str, app: str = "app") -> Post:
    return "add_model_links", {"app_name": app, "model_names": list(models)}


def unlink(*models: str, app: str = "app") -> Post:
    return "delete_model_links", {"app_name": app, "model_names": list(models)}


def set_policy(policy: str = "split", app: str = "app", **options: Any) -> Post:
    return "set_selection_policy", {"app_name": app, "policy": policy, "options": options}


def of_app(route: str, app: str = "app") -> Post:
    return route, {"app_name": app}


def versioned(route: str, version: str = "1", name: str = "m") -> Post:
    return route, {"model_name": name, "model_version": version}


def set_batching(**changes: Any) -> Post:
    return "set_batching", {"model_name": "m", "model_version": "1"} | changes


def container(replica_id: int) -> Post:
    return "get_container", {"model_name": "m", "model_version": "1", "replica_id": replica_id}


class Case(NamedTuple):
    before: list[Post]
    post: Post
    expected: Any


APP_OBJECT = {
    "name": "app",
    "input_type": "integers",
    "default_output": "-1",
    "latency_slo_micros": 20000,
    "missing_values": False,
    "linked_models": ["m"],
}
MODEL_OBJECT = {
    "model_name": "m",
    "model_version": "1",
    "input_type": "integers",
    "labels": ["a", "b"],
    "container_name": "image:1",
    "model_data_path": "DEPRECATED",
    "is_current_version": True,
    "batch_policy": "learned",
    "batch_size": -1,
    "batch_delay_micros": 0,
    "batch_wait": True,
}
CONTAINER_OBJECT = {
    "model_id": "m:1",
    "model_name": "m",
    "model_version": "1",
    "model_replica_id": 0,
    "input_type": "integers",
}
LINKED = [add_app(), add_model(), link("m")]
SECOND = add_model(model_version="2")

SPLIT = [*LINKED, SECOND, add_model(model_name="n"), set_policy(weights={"m": 1})]
"""An application with a policy that uses several links, and one link; other models to link it to."""
CANARY = [*SPLIT, link("m:1"), set_policy(weights={"m": 95, "m:1": 5})]
SPLIT_OBJECT = {"policy": "split", "options": {"weights": {"m": 1.0}, "sticky_key": ""}, "generation": 1}
CANARY_OBJECT = SPLIT_OBJECT | {
    "options": {"weights": {"m": 95.0, "m:1": 5.0}, "sticky_key": ""},
    "generation": 2,
}
SINGLE_OBJECT = {"policy": "single", "options": {}, "generation": 0}
NOTHING_LEARNED = "The selection policy '{}' of application 'app' learns nothing: it has no state"

TEXTS = [
    Case([], add_app(), "Successfully added application with name 'app'"),
    Case([], add_app(name="A_b.c~d-9"), "Successfully added application with name 'A_b.c~d-9'"),
    Case([], add_app(latency_slo_micros=2**31 - 1), "Successfully added application with name 'app'"),
    Case([add_app()], ("delete_app", {"name": "app"}), "Successfully deleted application with name 'app'"),
    Case([], add_model(), "Successfully added model with name 'm' and input type 'integers'"),
    Case([], add_model(input_type="s"), "Successfully added model with name 'm' and input type 'strings'"),
    Case([], add_model(model_name="M ö.1"), "Successfully added model with name 'M ö.1' and input type 'integers'"),
    Case([], add_model(labels=["a/b"] * 64), "Successfully added model with name 'm' and input type 'integers'"),
    Case([], add_model(check_only=True), "Model with name 'm' and version '1' can be added"),
    Case([add_app(), add_model()], link("m"), "Successfully linked model with name 'm' to application 'app'"),
    Case(LINKED, unlink("m"), "Success!"),
    Case(LINKED, unlink(), "Success!"),
    Case(
        [add_model()],
        versioned("delete_versioned_model"),
        "Successfully deleted model with name 'm' and version '1'",
    ),
    Case(
        [add_model(), SECOND],
        versioned("set_model_version"),
        "Successfully set model with name 'm' to version '1'",
    ),
    Case(
        [add_model()],
        set_batching(batch_policy="aimd"),
        "Model with name 'm' and version '1' now has the batch policy 'aimd' and a batch delay of 0 microseconds",
    ),
    Case(
        [add_model()],
        set_batching(batch_size=8, batch_delay_micros=2000),
        "Model with name 'm' and version '1' now has the batch policy 'fixed' of 8 and a batch delay of 2000 "
        "microseconds",
    ),
    Case(
        [add_model()],
        set_batching(batch_wait=False),
        "Model with name 'm' and version '1' now has the batch policy 'learned' and a batch delay of 0 microseconds, "
        "and waits for no clients",
    ),
    *[
        Case(before, set_policy(name), f"Application 'app' now has the selection policy '{name}'")
        for name in ("single", "split")
        for before in (LINKED, SPLIT)
    ],
    Case([add_app()], set_policy("single"), "Application 'app' now has the selection policy 'single'"),
    Case(SPLIT, link("m:1"), "Successfully linked model with name 'm:1' to application 'app'"),
    Case(SPLIT, link("n"), "Successfully linked model with name 'n' to application 'app'"),
    Case([*SPLIT, link("n")], unlink("n"), "Success!"),
    Case(SPLIT, unlink(), "Success!"),
    Case([add_app()], of_app("delete_selection_state"), NOTHING_LEARNED.format("single")),
    Case(SPLIT, of_app("delete_selection_state"), NOTHING_LEARNED.format("split")),
    Case([add_app()], ("get_state", {"app_name": "app", "uid": 0}), "-1"),
    Case([], ("get_state", {"app_name": "app", "uid": 0}), ""),
]

VALUES = [
    Case([], ("get_all_applications", {"verbose": False}), []),
    Case(LINKED, ("get_all_applications", {"verbose": False}), ["app"]),
    Case(LINKED, ("get_all_applications", {"verbose": True}), [APP_OBJECT]),
    Case(LINKED, ("get_application", {"name": "app"}), APP_OBJECT),
    Case([add_app()], ("get_application", {"name": "app"}), APP_OBJECT | {"linked_models": []}),
    Case([], ("get_application", {"name": "app"}), {}),
    Case(LINKED, ("get_linked_models", {"app_name": "app"}), ["m"]),
    Case([add_app()], ("get_linked_models", {"app_name": "app"}), []),
    # selection policies
    Case(LINKED, of_app("get_selection_policy"), SINGLE_OBJECT | {"linked_models": ["m"]}),
    Case([add_app()], of_app("get_selection_policy"), SINGLE_OBJECT | {"linked_models": []}),
    Case(SPLIT, of_app("get_selection_policy"), SPLIT_OBJECT | {"linked_models": ["m"]}),
    Case(CANARY, of_app("get_selection_policy"), CANARY_OBJECT | {"linked_models": ["m", "m:1"]}),
    Case([*CANARY, CANARY[-1]], of_app("get_selection_policy"), CANARY_OBJECT | {"linked_models": ["m", "m:1"]}),
    Case(CANARY, ("get_linked_models", {"app_name": "app"}), ["m", "m:1"]),
    Case(
        CANARY,
        ("get_application", {"name": "app"}),
        APP_OBJECT | {"linked_models": ["m", "m:1"], "selection_policy": CANARY_OBJECT},
    ),
    Case([*LINKED, set_policy("single")], ("get_application", {"name": "app"}), APP_OBJECT),
    Case(
        [*CANARY, set_policy(weights={"m": 1}), unlink("m:1"), set_policy("single")],
        of_app("get_selection_policy"),
        SINGLE_OBJECT | {"generation": 4, "linked_models": ["m"]},
    ),
    Case(
        [*CANARY, set_policy("split"), unlink("m"), link("m"), unlink("m:1"), set_policy("single"), unlink("m")],
        ("get_linked_models", {"app_name": "app"}),
        [],
    ),
    Case([*CANARY, ("delete_app", {"name": "app"}), add_app()], ("get_linked_models", {"app_name": "app"}), []),
    Case(
        [*CANARY, ("delete_app", {"name": "app"}), add_app()],
        of_app("get_selection_policy"),
        SINGLE_OBJECT | {"linked_models": []},
    ),
    Case(LINKED, ("get_all_models", {"verbose": False}), ["m:1"]),
    Case(LINKED, ("get_all_models", {"verbose": True}), [MODEL_OBJECT]),
    Case([add_model()], versioned("get_model"), MODEL_OBJECT),
    Case([add_model(labels=[])], versioned("get_model"), MODEL_OBJECT | {"labels": []}),
    Case([add_model(), SECOND], versioned("get_model"), MODEL_OBJECT | {"is_current_version": False}),
    Case([], versioned("get_model"), {}),
    # what only Clipper's own callers ask for
    Case([add_model(check_only=True)], versioned("get_model"), {}),
    Case([add_model(make_current=False)], versioned("get_model"), MODEL_OBJECT | {"is_current_version": False}),
    Case([add_model(), add_model(model_version="2", make_current=False)], versioned("get_model"), MODEL_OBJECT),
    *[
        Case([add_model(), *posts], versioned("get_model"), MODEL_OBJECT | batching)
        for posts, batching in [
            ([set_batching()], {}),
            ([set_batching(batch_size=8)], {"batch_policy": "fixed", "batch_size": 8}),
            ([set_batching(batch_policy="fixed", batch_size=8)], {"batch_policy": "fixed", "batch_size": 8}),
            (
                [set_batching(batch_size=8), set_batching(batch_delay_micros=1)],
                {"batch_policy": "fixed", "batch_size": 8, "batch_delay_micros": 1},
            ),
            (
                [set_batching(batch_size=8), set_batching(batch_policy="fixed")],
                {"batch_policy": "fixed", "batch_size": 8},
            ),
            ([set_batching(batch_size=8), set_batching(batch_policy="quantile")], {"batch_policy": "quantile"}),
            ([set_batching(batch_policy="aimd", batch_size=-1)], {"batch_policy": "aimd"}),
            ([set_batching(batch_wait=False), set_batching()], {"batch_wait": False}),
            ([set_batching(batch_wait=False), set_batching(batch_wait=True)], {}),
            (
                [set_batching(batch_policy="aimd"), set_batching(batch_size=8), set_batching(batch_size=-1)],
                {"batch_policy": "aimd"},
            ),
        ]
    ],
    Case(
        [add_model(batch_policy="aimd", batch_delay_micros=500)],
        versioned("get_model"),
        MODEL_OBJECT | {"batch_policy": "aimd", "batch_delay_micros": 500},
    ),
    Case(
        [add_model(max_output_bytes=1 << 30), set_batching(batch_size=8)],
        versioned("get_model"),
        MODEL_OBJECT | {"batch_policy": "fixed", "batch_size": 8, "max_output_bytes": 1 << 30},
    ),
    Case(
        [add_app(max_body_bytes=1 << 16)],
        ("get_application", {"name": "app"}),
        APP_OBJECT | {"max_body_bytes": 1 << 16, "linked_models": []},
    ),
    Case([add_model(batch_size=3)], versioned("get_model"), MODEL_OBJECT | {"batch_policy": "fixed", "batch_size": 3}),
    # what is deleted is gone with all that belongs to it
    Case([*LINKED, ("delete_app", {"name": "app"})], ("get_all_applications", {"verbose": False}), []),
    Case([*LINKED, ("delete_app", {"name": "app"}), add_app()], ("get_linked_models", {"app_name": "app"}), []),
    Case([*LINKED, unlink("m")], ("get_linked_models", {"app_name": "app"}), []),
    Case([add_model(), versioned("delete_versioned_model")], ("get_all_models", {"verbose": False}), []),
    Case(
        [
            add_model(),
            versioned("delete_versioned_model"),
            add_model(make_current=False),
        ],
        versioned("get_model"),
        MODEL_OBJECT | {"is_current_version": False},
    ),
]

INCOMPATIBLE = (
    "Model with name 'm' is already linked to app 'app' using input type 'integers'. "
    "The input type you provided for a new version of the model, 'doubles', is not compatible."
)
INCOMPATIBLE_N = INCOMPATIBLE.replace("'m'", "'n'")
BATCH_SIZE = "The batch size must be positive or DEFAULT_BATCH_SIZE, which is -1"
APP_NAME = (
    "Invalid name supplied: '{}'. It becomes part of the URL /<name>/predict: "
    "use the letters A-Z and a-z, digits and any of '_', '-', '.', '~', but not '.' or '..' alone, "
    "255 characters at the most"
)

REFUSALS = [
    Case([add_app()], add_app(input_type="doubles"), "application 'app' already exists"),
    *[Case([], add_app(name=name), APP_NAME.format(name)) for name in ("", "a b", "a/b", "ä", "..", "a\n", "a?")],
    Case([], add_app(latency_slo_micros=0), "latency_slo_micros must be greater than 0, not 0"),
    Case([], add_app(latency_slo_micros=-5), "latency_slo_micros must be greater than 0, not -5"),
    Case([], add_app(input_type="nonsense"), "nonsense is not a valid input string"),
    Case([], add_model(input_type="nonsense"), "nonsense is not a valid input string"),
    Case([], ("delete_app", {"name": "app"}), "Application 'app' does not exist"),
    # add_model_links, in the order of its checks
    Case([], link("m"), "No app with name 'app' exists."),
    Case([add_app(), add_model()], link("m", "x"), "No model with name 'x' exists."),
    Case(
        [add_app(), add_model(input_type="doubles")],
        link("m"),
        "Model with name 'm' has incompatible input_type 'doubles'. "
        "Requested app to link to has input_type 'integers'.",
    ),
    Case(
        [add_app(), add_model(), add_model(model_version="2", input_type="doubles")],
        link("m"),
        "Model with name 'm' has incompatible input_type 'doubles'. "
        "Requested app to link to has input_type 'integers'.",
    ),
    Case(
        [add_app()],
        link(),
        "Please provide the name of the model that you want to link to the application 'app'",
    ),
    Case(
        [*LINKED, add_model(model_name="n")],
        link("m", "n"),
        "Applications must be linked with at most one model. Attempted to add links to 2 models.",
    ),
    Case(LINKED, link("m"), "The model with name 'm' is already linked to 'app'"),
    Case([*LINKED, add_model(model_name="n")], link("n"), "A model with name m is already linked to 'app'."),
    Case(
        [add_app(), add_model()],
        link("m:1"),
        "Application 'app' has the selection policy 'single', and follows the current version of a model: link it to "
        "'m', or set another policy before it is linked to version '1'",
    ),
    Case(LINKED, link("m:1"), "A model with name m is already linked to 'app'."),
    Case(SPLIT, link("m"), "The model with name 'm' is already linked to 'app'"),
    Case(SPLIT, link("m:9"), "No model with name 'm' and version '9' exists."),
    Case(SPLIT, link("m:"), "No model with name 'm' and version '' exists."),
    *[
        Case(
            [*SPLIT, add_model(model_name="d", input_type="doubles")],
            link(name),
            f"Model with name '{name}' has incompatible input_type 'doubles'. "
            "Requested app to link to has input_type 'integers'.",
        )
        for name in ("d", "d:1")
    ],
    Case([*SPLIT, link("n")], add_model(model_name="n", model_version="2", input_type="doubles"), INCOMPATIBLE_N),
    # selection policies
    *[
        Case([], of_app(route), "No app with name 'app' exists.")
        for route in ("get_selection_policy", "delete_selection_state")
    ],
    Case([], set_policy(), "No app with name 'app' exists."),
    Case(
        LINKED,
        set_policy("best"),
        "'best' is no selection policy. Use one of single, split, shadow, epsilon_greedy, thompson, exp3, exp4, "
        "ensemble",
    ),
    *[
        Case(
            LINKED,
            set_policy(name),
            f"The selection policy '{name}' is not available in this version. Use one of single, split",
        )
        for name in ("epsilon_greedy", "thompson", "exp3", "exp4", "ensemble")
    ],
    Case(
        LINKED,
        set_policy("shadow", primary="m"),
        "The policy 'shadow' needs at least 2 linked model(s), and there are 1",
    ),
    Case([add_app()], set_policy("split"), "The policy 'split' needs at least 1 linked model(s), and there are 0"),
    Case(
        LINKED,
        set_policy(weight={"m": 1}),
        "The policy 'split' has no option 'weight'. It takes weights, sticky_key",
    ),
    Case(
        LINKED,
        set_policy(weights={"m": 1, "m:2": 1}),
        "The option 'weights' names 'm:2', which is not linked. Linked are: m",
    ),
    Case(
        CANARY,
        unlink("m:1"),
        "Without the link to m:1, the selection policy of application 'app' cannot be used: The option 'weights' names "
        "'m:1', which is not linked. Linked are: m. Set another policy, or the same without that link, first",
    ),
    Case(CANARY, set_policy("single"), "The policy 'single' needs at most 1 linked model(s), and there are 2"),
    Case(
        [*SPLIT, set_policy("split"), link("m:1"), unlink("m")],
        set_policy("single"),
        "The selection policy 'single' follows the current version of a model, and application 'app' is linked to "
        "m:1: link it to 'm', and remove the other link, first",
    ),
    Case(SPLIT, unlink("n"), "Cannot remove nonexistent link between app app and model n"),
    # delete_model_links
    Case([], unlink("m"), "No app with name app exists."),
    Case([add_app()], unlink("m"), "Cannot remove nonexistent link between app app and model m"),
    Case(LINKED, unlink("m", "n"), "Cannot remove nonexistent link between app app and model n"),
    # add_model
    Case([], add_model(batch_size=0, model_name=","), BATCH_SIZE),
    Case([], add_model(batch_size=-2), BATCH_SIZE),
    Case([], add_model(model_name="a:b"), "Invalid model name supplied: a:b. Contains one of: ',', ':'"),
    Case([], add_model(model_version="1,2"), "Invalid model version supplied: 1,2. Contains one of: ',', ':'"),
    Case([], add_model(labels=["x", "y:"]), "Invalid label supplied: y:. Contains one of: ',', ':'"),
    Case(
        [],
        add_model(model_name="a\tb"),
        "Invalid model name supplied: a\\u0009b. Contains one of: ',', ':', '/', "
        "control characters, bidirectional characters",
    ),
    Case(
        [],
        add_model(model_version="1/2"),
        "Invalid model version supplied: 1/2. Contains one of: ',', ':', '/', "
        "control characters, bidirectional characters",
    ),
    Case(
        [],
        add_model(labels=["gpj\u202e.1"]),
        "Invalid label supplied: gpj\\u202e.1. Contains one of: ',', ':', control characters, bidirectional characters",
    ),
    Case([], add_model(labels=["x"] * 65), "A model version has at most 64 labels, not 65"),
    Case([], add_model(labels=["x" * 256]), "Invalid label supplied: it is longer than 255 characters"),
    Case([], add_model(container_name="x" * 4097), "container_name is longer than 4096 characters"),
    Case([], add_model(model_data_path="x" * 4097), "model_data_path is longer than 4096 characters"),
    Case([], add_model(max_output_bytes=0), "max_output_bytes must be from 65536 to 1073741824, and is 0"),
    Case([], add_app(max_body_bytes=65535), "max_body_bytes must be from 65536 to 1073741824, and is 65535"),
    Case([], add_model(model_name=""), "Invalid model name supplied: it is empty"),
    Case([], add_model(model_version=""), "Invalid model version supplied: it is empty"),
    Case([add_model()], add_model(), "model with name 'm' and version '1' already exists"),
    Case([add_model()], add_model(check_only=True), "model with name 'm' and version '1' already exists"),
    Case(LINKED, add_model(model_version="2", input_type="doubles"), INCOMPATIBLE),
    Case(LINKED, add_model(model_version="2", input_type="doubles", check_only=True), INCOMPATIBLE),
    *[
        Case(before, post(**batching), text)
        for before, post in (([], add_model), ([add_model()], set_batching))
        for batching, text in [
            ({"batch_size": 0}, BATCH_SIZE),
            (
                {"batch_policy": "aimd", "batch_size": 5},
                "The batch policy 'aimd' learns the batch size, but batch_size fixes it to 5: "
                "leave out one of the two, or give the batch_size -1",
            ),
            ({"batch_policy": "fixed", "batch_size": -1}, "The batch policy 'fixed' needs a positive batch_size"),
            ({"batch_delay_micros": -1}, "batch_delay_micros must not be negative, and is -1"),
            ({"batch_policy": "best"}, "best is not a batch policy. Use one of learned, aimd, quantile, fixed"),
        ]
    ],
    Case([add_model()], set_batching(batch_policy="fixed"), "The batch policy 'fixed' needs a positive batch_size"),
    Case([], set_batching(), "model with name 'm' and version '1' does not exist"),
    # delete_versioned_model, set_model_version, get_linked_models
    Case([], versioned("delete_versioned_model"), "model with name 'm' and version '1' does not exist"),
    Case(
        [add_model(), versioned("delete_versioned_model")],
        versioned("delete_versioned_model"),
        "model with name 'm' and version '1' does not exist",
    ),
    Case([], versioned("set_model_version"), "Cannot set version for nonexistent model 'm'"),
    Case(
        [add_model()],
        versioned("set_model_version", "9"),
        "Cannot set non-existent version '9' for model with name 'm'",
    ),
    Case(
        [add_model(input_type="doubles"), add_model(model_version="2"), add_app(), link("m")],
        versioned("set_model_version", "1"),
        INCOMPATIBLE,
    ),
    Case([], ("get_linked_models", {"app_name": "app"}), "No application with name 'app' exists."),
]


async def arrange(client: TestClient, posts: list[Post]) -> None:
    for route, body in posts:
        answer = await client.post(f"/admin/{route}", json=body)
        assert answer.status == 200, await answer.text()


def described(case: Case) -> str:
    return f"{case.post[0]}-{case.expected}"[:60]


@pytest.mark.parametrize("case", TEXTS, ids=described)
async def test_success_is_plain_text(client: TestClient, case: Case) -> None:
    await arrange(client, case.before)
    answer = await client.post(f"/admin/{case.post[0]}", json=case.post[1])
    assert (answer.status, answer.content_type, await answer.text()) == (200, "text/plain", case.expected)


@pytest.mark.parametrize("case", VALUES, ids=described)
async def test_what_is_asked_for_is_json(client: TestClient, case: Case) -> None:
    await arrange(client, case.before)
    answer = await client.post(f"/admin/{case.post[0]}", json=case.post[1])
    assert (answer.status, answer.content_type, await answer.json()) == (200, "application/json", case.expected)


@pytest.mark.parametrize("case", REFUSALS, ids=described)
async def test_refusals_are_plain_text_and_change_nothing(client: TestClient, store: ConfigStore, case: Case) -> None:
    await arrange(client, case.before)
    before = await store.read()
    answer = await client.post(f"/admin/{case.post[0]}", json=case.post[1])
    assert (answer.status, answer.content_type, await answer.text()) == (400, "text/plain", case.expected)
    assert await store.read() == before


async def test_containers_are_those_that_frontends_announced(client: TestClient, members: MembershipStore) -> None:
    replicas = [(str(number), Replica(ModelId("m", "1"), number, 7, InputType.INTS)) for number in (1, 0)]
    await members.report(FrontendReport("query frontend", 1, "", replicas))

    async def ask(post: Post) -> Any:
        answer = await client.post(f"/admin/{post[0]}", json=post[1])
        assert (answer.status, answer.content_type) == (200, "application/json")
        return await answer.json()

    second = CONTAINER_OBJECT | {"model_replica_id": 1}
    assert await ask(("get_all_containers", {"verbose": False})) == ["m:1:0", "m:1:1"]
    assert await ask(("get_all_containers", {"verbose": True})) == [CONTAINER_OBJECT, second]
    assert await ask(container(1)) == second
    assert await ask(container(2)) == {}


async def test_frontends_without_a_replica(client: TestClient, members: MembershipStore) -> None:
    await members.report(FrontendReport("a", 1, "tcp://a:1", reached=frozenset({ModelId("m", "1")})))
    await members.report(FrontendReport("b", 1, "tcp://b:1"))
    body = {"model_name": "m", "model_version": "1"}
    answer = await client.post("/admin/get_frontends_without_replica", json=body)
    assert (answer.status, await answer.json()) == (200, ["b"])


async def test_workers_of_query_frontends(client: TestClient) -> None:
    async def ask(route: str, **keys: Any) -> tuple[int, str]:
        answer = await client.post(f"/admin/{route}", json=keys)
        return answer.status, await answer.text()

    assert await ask("get_query_frontend_workers") == (200, '{"workers":null}')
    assert await ask("set_query_frontend_workers", workers=3) == (200, "Each query frontend now has 3 workers")
    assert await ask("get_query_frontend_workers") == (200, '{"workers":3}')
    for wrong in (0, 65):
        status, text = await ask("set_query_frontend_workers", workers=wrong)
        assert (status, text) == (400, f"workers must be from 1 to 64, not {wrong}")
    status, text = await ask("set_query_frontend_workers")
    assert status == 400 and '{"workers": int32}' in text
    assert await ask("get_query_frontend_workers") == (200, '{"workers":3}')


async def test_workers_that_nobody_can_change(redis_port: int, store: ConfigStore) -> None:
    config = Config(redis_ip="127.0.0.1", redis_port=redis_port, follow_workers=False)
    async with TestClient(TestServer(app.create_app(config))) as client:
        answer = await client.post("/admin/set_query_frontend_workers", json={"workers": 3})
        assert answer.status == 400
        assert "Deployment" in await answer.text() and "set_num_frontend_replicas" in await answer.text()
    assert (await store.read()).workers is None


async def test_ping(client: TestClient) -> None:
    answer = await client.get("/admin/ping")
    assert (answer.status, answer.content_type, await answer.text()) == (200, "text/plain", "PONG")


async def test_unknown_route_is_404_json(client: TestClient) -> None:
    answer = await client.post("/admin/metrics", json={})
    assert (answer.status, answer.content_type) == (404, "application/json")
    assert (await answer.json())["cause"] == "No such route: /admin/metrics"


@pytest.mark.parametrize("route", [route.path for route in ROUTES if route.method == "POST"])
async def test_wrong_method_is_405_json(client: TestClient, route: str) -> None:
    answer = await client.get(route)
    assert (answer.status, answer.content_type, answer.headers["Allow"]) == (405, "application/json", "POST")
    assert (await answer.json())["cause"] == f"{route} does not take GET, only POST"


async def test_ping_takes_no_post(client: TestClient) -> None:
    assert (await client.post("/admin/ping")).status == 405


async def test_every_route_of_clipper_0_4_is_there_and_ours() -> None:
    names = (
        "ping add_app delete_app add_model_links delete_model_links set_selection_policy get_selection_policy "
        "delete_selection_state add_model delete_versioned_model set_model_version "
        "set_batching set_query_frontend_workers get_query_frontend_workers get_all_applications get_application "
        "get_linked_models get_all_models get_model get_all_containers get_container "
        "get_frontends_without_replica get_state"
    )
    assert [route.path for route in ROUTES] == [f"/admin/{name}" for name in names.split()]


async def test_of_many_that_add_one_name_one_wins(client: TestClient) -> None:
    posts = [client.post("/admin/add_app", json=add_app(default_output=str(number))[1]) for number in range(20)]
    answers = await asyncio.gather(*posts)
    assert sorted(answer.status for answer in answers) == [200] + [400] * 19
    refusals = {await answer.text() for answer in answers if answer.status == 400}
    assert refusals == {"application 'app' already exists"}
    winner = [answer.status for answer in answers].index(200)
    state = await client.post("/admin/get_state", json={"app_name": "app", "uid": 0})
    assert await state.text() == str(winner)


async def test_of_many_that_add_different_names_all_win(client: TestClient) -> None:
    posts = [client.post("/admin/add_app", json=add_app(name=f"app{number}")[1]) for number in range(40)]
    assert {answer.status for answer in await asyncio.gather(*posts)} == {200}
    answer = await client.post("/admin/get_all_applications", json={"verbose": False})
    assert len(await answer.json()) == 40


async def test_a_second_registration_of_a_version_is_told_from_the_first(
    client: TestClient, store: ConfigStore
) -> None:
    registrations = set()
    for _ in range(2):
        await arrange(client, [add_model()])
        registrations.add((await store.read()).models[ModelId("m", "1")].registration)
        await arrange(client, [versioned("delete_versioned_model")])
    assert len(registrations) == 2 and "" not in registrations


async def test_deleting_the_current_version_leaves_no_pointer_to_it(client: TestClient, store: ConfigStore) -> None:
    await arrange(client, [add_model(), add_model(model_version="2"), versioned("delete_versioned_model", "2")])
    assert (await store.read()).current_versions == {}


async def test_deleting_another_version_leaves_the_current_one(client: TestClient, store: ConfigStore) -> None:
    await arrange(client, [add_model(), add_model(model_version="2"), versioned("delete_versioned_model", "1")])
    assert (await store.read()).current_versions == {"m": "2"}
