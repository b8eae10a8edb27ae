"""Tests of the requests that servers get in the comparison."""

import base64
import json

import pytest

from bench import workloads
from bench.workloads import FIRST_NUMBER, MARK, WORKLOADS, Workload

every_workload = pytest.mark.parametrize("workload", WORKLOADS.values(), ids=lambda workload: workload.name)
every_dialect = pytest.mark.parametrize("dialect", [workloads.plain, workloads.open_inference, workloads.list_of_one])


@every_workload
@every_dialect
def test_body_is_json_with_one_mark(workload: Workload, dialect: workloads.Dialect) -> None:
    body = workloads.body(workload, dialect)
    assert body.count(MARK) == 1
    for number in (FIRST_NUMBER, FIRST_NUMBER + 1_234_567):
        assert isinstance(json.loads(body.replace(MARK, b"%d" % number)), dict)


@every_workload
def test_other_numbers_are_other_inputs(workload: Workload) -> None:
    body = workloads.body(workload)
    values = [json.loads(body.replace(MARK, b"%d" % (FIRST_NUMBER + number)))["input"] for number in range(3)]
    assert values[0] != values[1] != values[2]
    if workload.input_type == "bytes":
        decoded = [base64.b64decode(value, validate=True) for value in values]
        assert len(set(decoded)) == 3
        assert len(decoded[0]) == 100_000


@every_workload
def test_repeated_input_has_no_mark(workload: Workload) -> None:
    assert MARK not in workloads.body(workload, distinct=False)


@pytest.mark.parametrize("count", [10, 784])
def test_vectors_have_their_length(count: int) -> None:
    workload = WORKLOADS[f"{count} doubles"]
    assert len(json.loads(workloads.body(workload, distinct=False))["input"]) == count
    tensor = json.loads(workloads.body(workload, workloads.open_inference, distinct=False))["inputs"][0]
    assert tensor["shape"] == [1, count]
    assert len(tensor["data"]) == count
