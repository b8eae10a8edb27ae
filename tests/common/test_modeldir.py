"""Functions in model folders."""

from pathlib import Path

from clipper_common import modeldir


def test_a_function_comes_back_with_what_it_captured(tmp_path: Path) -> None:
    offset = 10

    def add(inputs: list[int]) -> list[int]:
        return [value + offset for value in inputs]

    modeldir.save_function(add, tmp_path)
    offset = 20
    assert [path.name for path in tmp_path.iterdir()] == ["func.pkl"]
    assert modeldir.load_function(tmp_path)([1, 2]) == [11, 12]


def test_a_reloaded_function_shares_nothing_with_the_original() -> None:
    seen: list[int] = []

    def remember(inputs: list[int]) -> list[int]:
        seen.extend(inputs)
        return seen

    assert modeldir.reload_function(remember)([1]) == [1]
    assert seen == []


def test_a_lambda_is_a_function_too() -> None:
    assert modeldir.reload_function(lambda inputs: len(inputs))([1, 2]) == 2
