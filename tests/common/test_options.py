"""Tests of options of a program as the fields of a dataclass."""

from dataclasses import MISSING, dataclass

import pytest

from clipper_common import __version__
from clipper_common.constants import EXIT_USAGE
from clipper_common.options import Options, option


@dataclass(frozen=True)
class Config(Options):
    """Options of a program that serves tests."""

    place: str = option(MISSING, "where")
    name: str = option("", "who")
    number: int = option(3, "how many", least=1, most=9)
    least: int = option(0, "the least", least=0)
    on: bool = option(True, "whether it is on")
    off: bool = option(False, "whether it is off")
    words: tuple[str, ...] = option((), "what to say", lambda text: tuple(text.split(",")))


def test_defaults_and_values() -> None:
    assert Config.parse(["--place=here"]) == Config("here")
    arguments = ["--place", "there", "--name=n", "--number=9", "--on=0", "--off=1", "--words=a,b"]
    assert Config.parse(arguments) == Config("there", "n", 9, 0, False, True, ("a", "b"))


@pytest.mark.parametrize("text", ["1", "true", "True", "TRUE", "yes", "on", "2", " 1 ", "01"])
def test_on(text: str) -> None:
    found = Config.parse(["--place=here", f"--off={text}"])
    assert found.off is True


@pytest.mark.parametrize("text", ["0", "false", "False", "no", "off", "00"])
def test_off(text: str) -> None:
    found = Config.parse(["--place=here", f"--on={text}"])
    assert found.on is False


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--name=n"], "--place"),
        (["--place=here", "--number=0"], "argument --number: 0 is less than 1"),
        (["--place=here", "--number=10"], "argument --number: 10 is more than 9"),
        (["--place=here", "--number=many"], "argument --number: invalid int value: 'many'"),
        (["--place=here", "--least=-1"], "argument --least: -1 is less than 0"),
        (["--place=here", "--on=maybe"], "argument --on: 'maybe' is neither of 1, true, yes, on nor of 0, false"),
        (["--place=here", "--on="], "argument --on: '' is neither"),
        (["--place=here", "--on=-1"], "argument --on: '-1' is neither"),
        (["--place=here", "--num=3"], "unrecognized arguments: --num=3"),
    ],
)
def test_wrong_usage_is_explained(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        Config.parse(arguments)
    assert exit_.value.code == EXIT_USAGE
    assert reason in capsys.readouterr().err


def test_help_has_all_options_and_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Config.parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Options of a program that serves tests." in text
    for line in (
        "where (required)",
        "who (default: none)",
        "how many (default: 3)",
        "the least (default: 0)",
        "whether it is on (default: on)",
        "whether it is off (default: off)",
        "what to say (default: none)",
    ):
        assert line in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Config.parse(["--version"])
    assert capsys.readouterr().out.strip() == __version__
