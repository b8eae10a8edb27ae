import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_common import jsontext
from clipper_common.long_work import finish_at_once
from query_frontend.serving import answers
from query_frontend.serving.answers import Answer, Default, Waited
from tests.steps import in_steps


def rendered(several: Sequence[Answer], first_id: int) -> bytes:
    return b"".join(finish_at_once(answers.render(several, itertools.count(first_id))))


def test_answers_are_rendered_as_0_4_rendered_them() -> None:
    good = b"1.10"
    default = Default(b'"x"', 'because "so"')
    assert rendered([good], 7) == b'{"query_id":7,"output":1.10,"default":false}'
    assert (
        rendered([default], 7) == b'{"query_id":7,"output":"x","default":true,"default_explanation":"because \\"so\\""}'
    )
    assert rendered([good, default], 7) == (
        b'{"batch_predictions":[{"query_id":7,"output":1.10,"default":false},'
        b'{"query_id":8,"output":"x","default":true,"default_explanation":"because \\"so\\""}]}'
    )


def test_a_default_at_the_deadline_says_where_the_time_went() -> None:
    default = Default(b"1", "late", Waited(0.0312, 0.0188))
    body = (
        b'{"query_id":7,"output":1,"default":true,"default_explanation":"late",'
        b'"default_waited_millis":{"in_queue":31.200,"at_replica":18.800}}'
    )
    assert rendered([default], 7) == answers.render_one(7, default) == body


@pytest.mark.parametrize("output", [b"1.10", b'"%b"' % (b"x" * 5000)], ids=["small", "large"])
def test_each_answer_has_its_explanation(output: bytes) -> None:
    several = [output, Default(b"-1", "late", Waited(0.001, 0.0)), Default(b"-1", "full")]
    explanations = [b'{"a":1}', b'{"b":2}', b"3"]
    steps = answers.render(several, itertools.count(), iter(explanations))
    found = jsontext.parse(b"".join(finish_at_once(steps)))["batch_predictions"]
    assert [answer.pop("explanation") for answer in found] == [{"a": 1}, {"b": 2}, 3]
    assert found == jsontext.parse(rendered(several, 0))["batch_predictions"]
    one = finish_at_once(answers.render(several[:1], itertools.count(), iter(explanations)))
    assert b"".join(one) == b'{"query_id":0,"output":%b,"default":false,"explanation":{"a":1}}' % output


def test_an_empty_batch_is_a_batch() -> None:
    assert rendered([], 5) == b'{"batch_predictions":[]}'


@pytest.mark.parametrize(("size", "number"), [(1 << 20, 8), (1 << 13, 1024), (100, 4096), (1 << 23, 1)])
def test_large_answers_are_rendered_in_steps_and_sent_in_pieces(size: int, number: int) -> None:
    output = b'"%b"' % (b"x" * size)
    parts, steps = in_steps(answers.render([output] * number, itertools.count()))
    each = [answers.render_one(query_id, output) for query_id in range(number)]
    expected = each[0] if number == 1 else b'{"batch_predictions":[%b]}' % b",".join(each)
    pieces = list(answers.in_pieces(parts))
    assert b"".join(pieces) == expected
    assert all(answers.PIECE_BYTES <= len(piece) < 2 * answers.PIECE_BYTES for piece in pieces[:-1])
    assert steps >= number * min(size, answers._LEAST_STEP_BYTES) // answers._STEP_BYTES // 2


@pytest.mark.parametrize("answer", [b'"%b"' % bytes(1 << 16), Default(b'"%b"' % bytes(1 << 16), "because " * 1000)])
def test_an_answer_holds_an_output_once_however_many_inputs_have_it(answer: Answer) -> None:
    parts = finish_at_once(answers.render([answer] * 4096, itertools.count()))
    assert sum({id(part): len(part) for part in parts}.values()) < 1 << 18
    assert b"".join(parts).count(b'"query_id"') == 4096


# --- large outputs ---

PARTS = [b"[", b"]", b"{", b"}", b",", b":", b'"', b"1", b"-", b".", b"e", b"\\", b"u", b"d800", b" ", b"\xc3", b"\xa9"]


@given(st.lists(st.sampled_from([*PARTS, b"\xef\xbb\xbf", b"true", b"1e999", b"\0"]), max_size=8))
def test_a_large_output_is_embedded_as_a_small_one(parts: list[bytes]) -> None:
    for output in (b"".join(parts), b"[" + b"".join(parts) + b"]"):
        assert embedded_as_large(output) == jsontext.embed(output)


@pytest.mark.parametrize("output", [b'{"a": [1, null]}', b"18446744073709551616", b"text", b"[1", b"\xff", b"nan"])
def test_outputs_of_all_kinds(output: bytes) -> None:
    assert embedded_as_large(output) == jsontext.embed(output)


def embedded_as_large(output: bytes) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "LARGE_OUTPUT_BYTES", -1)
        return answers.embed_large(output)


def test_a_large_output_is_rendered_without_a_copy() -> None:
    output = b'"%b"' % (b"x" * 100)
    parts = answers.render_in_parts(7, output)
    assert any(part is output for part in parts)
    assert b"".join(parts) == answers.render_one(7, output)
