"""The container's metrics: arithmetic, and the endpoint of a real container."""

import re
import socket
import urllib.request

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest

from clipper_containers.metrics import ContainerMetrics
from clipper_containers.prediction import BatchReport
from tests.containers.conftest import Launch
from tests.containers.scripted_frontend import ScriptedFrontend

NOOP = ("-m", "clipper_containers.noop_container")


def test_counts_and_buckets() -> None:
    metrics, registry = ContainerMetrics(), CollectorRegistry()
    registry.register(metrics)
    metrics.observe(BatchReport(1.0, 1.0001, 1.0004, 1.0124, inputs=3, errors=1))
    metrics.observe(BatchReport(1.0, 1.002, 1.002, 2.0, inputs=2, errors=0))
    lines = generate_latest(registry).decode().splitlines()
    assert "clipper_mc_pred_total 2.0" in lines
    assert "clipper_mc_inputs_total 5.0" in lines
    assert "clipper_mc_errors_total 1.0" in lines
    assert 'clipper_mc_handle_time_ms_bucket{le="10.0"} 0.0' in lines
    assert 'clipper_mc_handle_time_ms_bucket{le="20.0"} 1.0' in lines
    assert 'clipper_mc_handle_time_ms_bucket{le="500.0"} 1.0' in lines
    assert 'clipper_mc_handle_time_ms_bucket{le="+Inf"} 2.0' in lines
    assert "clipper_mc_end_to_end_latency_ms_count 2.0" in lines
    assert 'clipper_mc_parse_time_ms_bucket{le="0.2"} 1.0' in lines
    assert 'clipper_mc_recv_time_ms_bucket{le="1.0"} 1.0' in lines


def test_endpoint(frontend: ScriptedFrontend, launch: Launch, free_port: int) -> None:
    launch(*NOOP, CLIPPER_METRIC_PORT=str(free_port))
    frontend.register()
    frontend.predict([np.float64([1]).tobytes()] * 3)
    with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert "\nclipper_mc_pred_total 1.0\n" in text
    assert "\nclipper_mc_inputs_total 3.0\n" in text
    assert re.search(r"^clipper_mc_recv_time_ms_sum 0\.\d+", text, re.MULTILINE)
    assert "python_info" in text


def test_a_taken_port_is_no_reason_to_die(frontend: ScriptedFrontend, launch: Launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = launch(*NOOP, CLIPPER_METRIC_PORT=str(port))
        frontend.register()
        assert frontend.predict([np.float64([1]).tobytes()]).outputs == [b"0"]
    program.terminate()
    frontend.answer_drain()
    assert f"cannot listen on port {port}" in program.communicate(timeout=5)[1]
