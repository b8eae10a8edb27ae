"""The command line is that of Clipper 0.4, and our own options."""

import pytest

from clipper_common.constants import EXIT_USAGE
from management_frontend.config import Config
from management_frontend.origins import Origin


def test_defaults() -> None:
    assert Config.parse([]) == Config("localhost", 6379, "0.0.0.0", 1338, None)


def test_as_the_container_managers_of_0_4_call_it() -> None:
    assert Config.parse(["--redis_ip=redis", "--redis_port=6380"]) == Config("redis", 6380)


def test_all_options_with_blanks() -> None:
    arguments = ["--redis_ip", "r", "--redis_port", "1", "--host", "h", "--port", "2", "--cluster_id", "c/1"]
    assert Config.parse(arguments) == Config("r", 1, "h", 2, "c/1")


def test_origins_and_hosts_are_lists() -> None:
    config = Config.parse(
        ["--allowed_origins=https://A.example.com, http://b:8080,", "--allowed_hosts=Clipper.lan,b:1"]
    )
    assert config.allowed_origins == {Origin("https", "a.example.com", 443), Origin("http", "b", 8080)}
    assert config.allowed_hosts == {"clipper.lan", "b"}


@pytest.mark.parametrize(
    "arguments",
    [["--redis_port=x"], ["--nonsense"], ["--redis=x"]]
    + [[f"--allowed_origins={origin}"] for origin in ("null", "*", "a.example.com", "https://a.example.com/x")],
)
def test_wrong_usage_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        Config.parse(arguments)
    assert exit_.value.code == EXIT_USAGE
    assert arguments[0].partition("=")[0] in capsys.readouterr().err


def test_help_names_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Config.parse(["--help"])
    assert "port to listen on (default: 1338)" in capsys.readouterr().out
