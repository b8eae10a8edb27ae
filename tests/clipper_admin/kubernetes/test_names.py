"""Names and labels of objects, short and long, plain and odd."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_admin.kubernetes import names

DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
LONG = "a" * 63
OF_A_CLUSTER = [
    *(names.redis, names.management_frontend, names.query_frontend, names.query_frontends, names.metrics),
    *(names.prometheus_configuration, names.models, names.exporters, names.replicas),
]

cluster_names = st.from_regex(r"[a-z0-9]{1,20}([._-][a-z0-9]{1,20}){0,2}", fullmatch=True).filter(lambda x: len(x) < 64)
texts = st.text(min_size=1, max_size=300)


def test_plain_names_are_those_of_clipper() -> None:
    assert names.redis("c") == "redis-at-c"
    assert names.management_frontend("c") == "mgmt-frontend-at-c"
    assert names.query_frontend("c") == "query-frontend-at-c"
    assert names.query_frontends("c") == "query-frontend-0-at-c"
    assert names.metrics("c") == "metrics-at-c"
    assert names.prometheus_configuration("c") == "prometheus-config-at-c"
    assert names.prometheus_account("c") == "c-prometheus"
    assert names.model("c", "m", "1") == "m-1-deployment-at-0-at-c"


@pytest.mark.parametrize("cluster", ["c", "a.b", "a_b", "a__b", "a-b", LONG, "x-at-y"])
def test_objects_of_a_cluster_have_names_of_their_own(cluster: str) -> None:
    found = [name(cluster) for name in OF_A_CLUSTER]
    assert len(set(found)) == len(found)
    assert all(DNS_LABEL.fullmatch(name) for name in found)


def test_what_only_looks_alike_has_other_names() -> None:
    models = [("c", "a", "1-2"), ("c", "a-1", "2"), ("c", "a", "1.2"), ("c", "a", "1_2"), ("c", "A", "1_2")]
    models += [("y", "m-1-deployment-at-0-at", "x"), ("x-deployment-at-0-at-y", "m", "1")]
    models += [("c", LONG, "1"), ("c", LONG, "2"), ("c", f"{LONG}a", "1")]
    assert len({names.model(*model) for model in models}) == len(models)
    clusters = ["a.b", "a_b", "a-b", "a__b", "a--b", LONG, f"{LONG[:-1]}b"]
    for name in [*OF_A_CLUSTER, names.prometheus_account]:
        assert len({name(cluster) for cluster in clusters}) == len(clusters)


def test_shortened_names_still_say_what_they_are() -> None:
    assert re.fullmatch(r"redis-at-a-b-[0-9a-f]{10}", names.redis("a.b"))
    assert re.fullmatch(r"m-1-0-deployment-at-0-at-c-[0-9a-f]{10}", names.model("c", "m", "1.0"))
    assert re.fullmatch(r"a{52}-[0-9a-f]{10}", names.model("c", LONG, "1"))


@given(cluster_names, texts, texts)
def test_any_name_becomes_one_that_kubernetes_takes(cluster: str, name: str, version: str) -> None:
    found = names.model(cluster, name, version)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", found)
    assert found == names.model(cluster, name, version)
    for value in names.model_labels(cluster, name, version).values():
        assert LABEL_VALUE.fullmatch(value)


@pytest.mark.parametrize("text", ["m_1", "M_1.0-rc", "a" * 63])
def test_labels_that_can_be_are_kept(text: str) -> None:
    assert names.label_value(text) == text


def test_shortened_labels_differ() -> None:
    odd = ["a" * 64, "a" * 65, "a/b", "a b", "-a", "a-", "_", "é", "ü"]
    found = [names.label_value(text) for text in odd]
    assert len(set(found)) == len(odd)
    assert all(LABEL_VALUE.fullmatch(value) for value in found)


def test_selectors() -> None:
    assert names.as_text(names.model_selector("c", "m", "1")) == (
        "ai.clipper.container.label=c,ai.clipper.name=model,ai.clipper.model_container.label=m_1"
    )
    for smaller, larger in itertools.pairwise(
        [names.cluster_selector("c"), names.selector("c", names.MODEL), names.model_selector("c", "m", "1")]
    ):
        assert smaller.items() < larger.items()
    assert names.model_selector("c", "m", "1").items() < names.model_labels("c", "m", "1").items()
