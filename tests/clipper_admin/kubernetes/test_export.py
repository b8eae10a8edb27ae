"""Tests of the manifests that a manager writes for `kubectl apply`."""

from pathlib import Path

from clipper_admin import KubernetesContainerManager


def test_all_images_can_be_chosen(tmp_path: Path) -> None:
    manager = KubernetesContainerManager(redis_image="mine/redis:7", prometheus_image="mine/prometheus:3")
    manager.export(tmp_path, "mine/query:1", "mine/management:1", "mine/exporter:1")
    lines = [line.strip() for path in tmp_path.glob("*.yaml") for line in path.read_text().splitlines()]
    assert {line.removeprefix("image: ") for line in lines if line.startswith("image: ")} == {
        "mine/redis:7",
        "mine/prometheus:3",
        "mine/query:1",
        "mine/management:1",
        "mine/exporter:1",
    }
