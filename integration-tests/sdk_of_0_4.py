"""Run by Python 3.7 with ``clipper_admin==0.4.1``: all that a script of that SDK does with a cluster on Docker."""

import sys
import tempfile
import time

import requests

from clipper_admin import ClipperConnection, DockerContainerManager

WAIT_SECONDS = 30


def wait_until(condition, what):
    deadline = time.time() + WAIT_SECONDS
    while not condition():
        assert time.time() < deadline, f"{what} did not happen in {WAIT_SECONDS} s"
        time.sleep(0.2)


def main(cluster, network, image):
    conn = ClipperConnection(DockerContainerManager(cluster, docker_network=network))
    conn.connect()
    conn.register_application("hello", "doubles", "-1.0", 1000000)
    conn.deploy_model("m", 1, "doubles", image, num_replicas=1)
    conn.link_model_to_app("hello", "m")
    url = f"http://{conn.get_query_addr()}/hello/predict"
    wait_until(lambda: not requests.post(url, json={"input": [1.0]}).json()["default"], "a prediction")
    conn.set_num_replicas("m", 2)
    assert conn.get_num_replicas("m") == 2
    wait_until(lambda: conn.get_all_model_replicas() == ["m:1:0", "m:1:1"], "a second replica")
    assert conn.get_all_models() == ["m:1"] and conn.get_linked_models("hello") == ["m"]
    assert conn.get_model_info("m", 1)["container_name"] == image
    assert conn.inspect_instance()["counters"]
    with tempfile.TemporaryDirectory() as folder:
        assert len(conn.get_clipper_logs(folder)) == 7

    def are_scraped():
        query = {"query": 'up{job=~"m_1-.*"} == 1'}
        answer = requests.get(f"http://{conn.get_metric_addr()}/api/v1/query", params=query)
        return len(answer.json()["data"]["result"]) == 2

    wait_until(are_scraped, "the scraping of both replicas")
    conn.set_num_replicas("m", 1)
    assert conn.get_num_replicas("m") == 1
    conn.stop_models(["m"])
    assert conn.get_all_models() == [] and conn.cm.get_num_replicas("m", "1") == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
