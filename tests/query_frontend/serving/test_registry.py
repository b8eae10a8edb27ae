"""Many changes at once leave the event loop to others."""

import asyncio
from collections.abc import Mapping

import pytest

from clipper_common import long_work
from clipper_common.config_copy import Update
from clipper_common.datatypes import InputType, Link, ModelId
from clipper_common.layout import LAYOUT, Place
from clipper_common.records import Application, Model, Selection
from clipper_common.snapshot import Snapshot
from query_frontend.monitoring.metrics import SystemMetrics
from query_frontend.serving import registry as module
from query_frontend.serving.registry import Registry
from tests.steps import in_steps

MANY = 1000
GIVE_UP_TURNS = 10_000


def many(number: int) -> Update:
    """Return an update with this many new applications, each linked to a model of its own."""
    models = [ModelId(f"model-{each}", "1") for each in range(number)]
    apps = [Application(f"app-{each}", InputType.DOUBLES, "default", 1000 * (each + 1)) for each in range(number)]
    changed: list[Place] = []
    for app, model in zip(apps, models, strict=True):
        changed += LAYOUT.application_place(app.name), LAYOUT.links_place(app.name)
        changed += LAYOUT.model_place(model), LAYOUT.current_version_place(model.name)
    snapshot = Snapshot(
        applications={app.name: app for app in apps},
        models={model: Model(model, InputType.DOUBLES) for model in models},
        current_versions={model.name: "1" for model in models},
        links={app.name: (model.name,) for app, model in zip(apps, models, strict=True)},
        revision=7,
    )
    return Update(snapshot, frozenset(changed))


class Models:
    """The part of the executor that a registry tells of model versions."""

    def __init__(self) -> None:
        self.slos: dict[ModelId, float] = {}
        self.largest_part = 0

    def change(self, models: Mapping[ModelId, Model | None], slos: Mapping[ModelId, float]) -> None:
        self.largest_part = max(self.largest_part, len(models))
        self.slos |= slos


async def test_others_have_their_turn_while_many_changes_are_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_work, "TURN_SECONDS", 0.0)
    models = Models()
    registry = Registry(SystemMetrics(), models.change)
    applying = asyncio.create_task(registry.apply(many(MANY)))
    seen = [0]
    turns = 0
    while not applying.done():
        assert registry.revision == 0 and not registry.is_loaded, "nobody is told before all is served"
        await asyncio.sleep(0)
        turns += 1
        seen.append(sum(registry.app(f"app-{each}") is not None for each in range(MANY)))
        assert turns < GIVE_UP_TURNS
    await applying
    assert max(after - before for before, after in zip(seen, seen[1:], strict=False)) == module._AT_ONCE
    assert models.largest_part == module._AT_ONCE
    looked_at = 4 * MANY + MANY  # what changed, and the applications that this affects
    assert turns >= (looked_at + MANY + MANY) // module._AT_ONCE, "so many steps"
    assert registry.revision == 7 and registry.is_loaded
    app = registry.app("app-3")
    assert app is not None and app.model_id == ModelId("model-3", "1")
    assert models.slos[ModelId("model-3", "1")] == pytest.approx(0.004)


async def test_a_single_change_waits_for_nobody() -> None:
    registry = Registry(SystemMetrics(), Models().change)
    await registry.apply(many(1))
    assert registry.revision == 7 and registry.app("app-0") is not None


VERSIONS = ASKING = 300


async def test_a_change_costs_the_sum_of_versions_and_applications_not_their_product() -> None:
    """A new current version affects each application that asks the model, and its versions, once each."""
    models = {ModelId("shared", str(version)) for version in range(VERSIONS)}
    apps = [Application(f"app-{each}", InputType.DOUBLES, "default", 1000) for each in range(ASKING)]
    snapshot = Snapshot(
        applications={app.name: app for app in apps},
        models={model: Model(model, InputType.DOUBLES) for model in models},
        current_versions={"shared": "1"},
        links={app.name: ("shared",) for app in apps},
        revision=1,
    )
    places = {place for app in apps for place in (LAYOUT.application_place(app.name), LAYOUT.links_place(app.name))}
    places |= {LAYOUT.model_place(model) for model in models} | {LAYOUT.current_version_place("shared")}
    registry = Registry(SystemMetrics(), Models().change)
    await registry.apply(Update(snapshot, frozenset(places)))
    affected, steps = in_steps(registry._affected_by([LAYOUT.current_version_place("shared")]))
    assert affected == ({app.name for app in apps}, set(models))
    assert steps == (ASKING + VERSIONS) // module._AT_ONCE


async def test_applications_with_large_defaults_are_made_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_work, "TURN_SECONDS", 0.0)
    large = '"' + "x" * (1 << 20) + '"'
    apps = [Application(f"app-{each}", InputType.DOUBLES, large, 1000) for each in range(5)]
    snapshot = Snapshot(applications={app.name: app for app in apps}, revision=1)
    registry = Registry(SystemMetrics(), Models().change)
    changed = frozenset(LAYOUT.application_place(app.name) for app in apps)
    applying = asyncio.create_task(registry.apply(Update(snapshot, changed)))
    seen = [0]
    while not applying.done():
        await asyncio.sleep(0)
        seen.append(sum(registry.app(app.name) is not None for app in apps))
    assert seen[-1] == len(apps)
    assert max(after - before for before, after in zip(seen, seen[1:], strict=False)) == 1


def split(*links: Link, policy: str = "split", current: str = "1", **options: object) -> Update:
    """Return an update with an application that has this policy, and three versions of a model, one of another type."""
    app = Application("app", InputType.DOUBLES, "default", 1000, selection=Selection(policy, options, 1, links))
    types = {"1": InputType.DOUBLES, "2": InputType.DOUBLES, "3": InputType.INTS}
    snapshot = Snapshot(
        applications={"app": app},
        models={ModelId("m", version): Model(ModelId("m", version), kind) for version, kind in types.items()},
        current_versions={"m": current},
        links={"app": ("m",)},
    )
    return Update(snapshot, frozenset(snapshot.places()))


def counted(metrics: SystemMetrics) -> dict[str, int]:
    """Return the counts by link."""
    return {name: state for _, name, state in metrics.lines() if name.startswith("app:app:arm:")}


async def test_arms_are_the_links_at_present() -> None:
    metrics = SystemMetrics()
    models = Models()
    registry = Registry(metrics, models.change)
    links = Link("m"), Link("m", "2"), Link("m", "3"), Link("gone")

    async def model_of(link: str, current: str = "1") -> ModelId | None:
        await registry.apply(split(*links, weights={link: 1}, current=current))
        app = registry.app("app")
        assert app is not None and app.chooser is not None and app.linked == ("m", "gone")
        arm = app.chooser.choose(b"")
        assert arm.link == link and arm.default_answer("x") == app.default_answer("x")
        arm.metrics.add_answer(0.1)
        arm.metrics.add_default("slo_missed", 0.1)
        return arm.model_id

    assert await model_of("m") == ModelId("m", "1")
    assert await model_of("m", current="2") == ModelId("m", "2")
    assert await model_of("m:2") == ModelId("m", "2")
    assert await model_of("m:3") is None, "its input type differs"
    assert await model_of("gone") is None
    assert models.slos.keys() == {ModelId("m", version) for version in "123"}
    found = counted(metrics)
    assert len(found) == 2 * len(links)
    assert found["app:app:arm:m:num_predictions"] == found["app:app:arm:gone:num_predictions"] * 2
    await registry.apply(split(policy="single"))
    assert counted(metrics) == {}
    app = registry.app("app")
    assert app is not None and app.chooser is None and app.linked == ("m",)
