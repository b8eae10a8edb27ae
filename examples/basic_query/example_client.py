"""Deploys a function and asks it: one input, several at once, and a version by its name."""

import sys
import time
from datetime import datetime
from typing import Any

import numpy as np
import requests

from clipper_admin import ClipperConnection, ProcessContainerManager
from clipper_admin.deployers import python as python_deployer


def main() -> None:
    clipper_conn = ClipperConnection(ProcessContainerManager(cluster_name="basic-query"))
    clipper_conn.start_clipper()
    try:
        deploy(clipper_conn)
        address = clipper_conn.get_query_addr()
        for _ in range(5):
            predict(address, {"input": np.random.random(200).tolist()})
        predict(address, {"input_batch": [np.random.random(200).tolist() for _ in range(2)]})
        predict(address, {"input": np.random.random(200).tolist(), "version": "1"})
    finally:
        clipper_conn.stop_all()


def deploy(clipper_conn: ClipperConnection) -> None:
    def feature_sum(xs: Any) -> list[str]:
        return [str(sum(x)) for x in xs]

    python_deployer.create_endpoint(
        clipper_conn, name="simple-example", version=1, input_type="doubles", func=feature_sum
    )


def predict(address: str, query: dict[str, Any]) -> None:
    started = datetime.now()
    before = time.perf_counter()
    answer = requests.post(f"http://{address}/simple-example/predict", json=query, timeout=10)
    latency = (time.perf_counter() - before) * 1000
    answer.raise_for_status()
    print(f"{started:%H:%M:%S} in {latency:.1f} ms: {answer.text}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
