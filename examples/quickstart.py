"""Clipper in one minute: start a cluster, deploy two models, ask them over HTTP, stop. Run by `make quickstart`.

With `--keep` the cluster stays until you press Enter, so that you can ask it yourself.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import requests
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from clipper_admin import ClipperConnection, ProcessContainerManager
from clipper_admin.deployers import python as python_deployer

SLO_MICROS = 100_000
"""Every query is answered within 100 ms, by the model or else by the default."""


def main(arguments: Sequence[str] = ()) -> None:
    clipper_conn = ClipperConnection(ProcessContainerManager(cluster_name="quickstart"))
    clipper_conn.stop_all()  # what an earlier run left, if it was killed
    try:
        clipper_conn.start_clipper()
        deploy_sum(clipper_conn)
        images, truths = deploy_digits(clipper_conn)
        ask_sum(clipper_conn)
        ask_digits(clipper_conn, images, truths)
        if "--keep" in arguments:
            input("\nThe cluster runs. Press Enter to stop it. ")
    finally:
        clipper_conn.stop_all()


def deploy_sum(clipper_conn: ClipperConnection) -> None:
    """An application, a model, and the link between them."""

    def feature_sum(xs: Any) -> list[str]:
        return [str(sum(x)) for x in xs]

    clipper_conn.register_application(
        name="hello-world", input_type="doubles", default_output="-1.0", slo_micros=SLO_MICROS
    )
    python_deployer.deploy_python_closure(
        clipper_conn, name="sum-model", version=1, input_type="doubles", func=feature_sum
    )
    clipper_conn.link_model_to_app(app_name="hello-world", model_name="sum-model")


def deploy_digits(clipper_conn: ClipperConnection) -> tuple[Any, Any]:
    """All three at once, for a classifier of handwritten digits. Returns images it has not seen, and what they show."""
    digits = load_digits()
    images, test_images, labels, truths = train_test_split(digits.data, digits.target, random_state=0)
    classifier = SVC(gamma=0.001).fit(images, labels)
    python_deployer.create_endpoint(
        clipper_conn,
        name="digits",
        input_type="doubles",
        func=lambda pictures: classifier.predict(pictures),
        default_output="-1",
        slo_micros=SLO_MICROS,
    )
    return test_images, truths


def ask_sum(clipper_conn: ClipperConnection) -> None:
    url = f"http://{clipper_conn.get_query_addr()}/hello-world/predict"
    query = json.dumps({"input": [1.1, 2.2, 3.3]})
    print(f"\n$ curl -X POST --header 'Content-Type: application/json' -d '{query}' {url}")
    print(requests.post(url, data=query, timeout=10).text)


def ask_digits(clipper_conn: ClipperConnection, images: Any, truths: Any) -> None:
    url = f"http://{clipper_conn.get_query_addr()}/digits/predict"
    predictions, latencies = [], []
    with requests.Session() as session:
        for image in images:
            started = time.perf_counter()
            answer = session.post(url, json={"input": image.tolist()}, timeout=10).json()
            latencies.append((time.perf_counter() - started) * 1000)
            predictions.append(answer["output"])
    report(predictions, list(truths), latencies)


def report(predictions: list[int], truths: list[int], latencies: list[float]) -> None:
    right = sum(prediction == truth for prediction, truth in zip(predictions, truths, strict=True))
    percentiles = statistics.quantiles(latencies, n=100)
    print("\nHandwritten digits, one HTTP request each:")
    print("  prediction  " + " ".join(map(str, predictions[:20])) + " ...")
    print("  truth       " + " ".join(map(str, truths[:20])) + " ...")
    print(f"  accuracy    {right / len(truths):.1%} of {len(truths)}")
    print(f"  latency     p50 {percentiles[49]:.1f} ms, p99 {percentiles[98]:.1f} ms\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
