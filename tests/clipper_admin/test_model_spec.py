"""Tests of ModelSpec: the checks and the JSON of each option of a model version."""

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from clipper_admin import ClipperConnection, ClipperException
from clipper_admin.deployers.options import DeployOptions
from clipper_admin.model_spec import ModelSpec, check_options
from clipper_admin.resources import Resources

PLAIN = ModelSpec("m", "1", "doubles", "image")
OTHERWISE_NAMED = {"gpus": "resources", "load_timeout": "load_seconds"}
"""Arguments that become fields of other names."""
OF_THE_IMAGE = {"model_data_path", "base_image", "container_registry", "pkgs_to_install"}
OF_FUNCTIONS = {"inputs", "outputs"}


def arguments_of(method: str) -> set[str]:
    return set(inspect.signature(getattr(ClipperConnection, method)).parameters) - {"self"}


@pytest.mark.parametrize("method", ["deploy_model", "build_and_deploy_model", "register_model"])
def test_every_argument_is_a_field(method: str) -> None:
    named = {OTHERWISE_NAMED.get(argument, argument) for argument in arguments_of(method) - OF_THE_IMAGE}
    assert named <= {field.name for field in fields(ModelSpec)}


def test_deployers_take_every_option_of_a_deployment() -> None:
    options = arguments_of("build_and_deploy_model") - {"name", "version", "input_type", "model_data_path"}
    renamed = {"registry" if option == "container_registry" else option for option in options}
    assert DeployOptions.__annotations__.keys() - OF_FUNCTIONS == renamed


def test_an_option_is_named_where_the_recipe_says() -> None:
    """docs/contributing.md: public signatures and a field. This one is registered, and has no effect in the SDK."""
    folder = Path(inspect.getfile(ClipperConnection)).parent
    naming = {path.name for path in folder.rglob("*.py") if "batch_delay_micros" in path.read_text()}
    assert naming == {"clipper_admin.py", "options.py", "model_spec.py"}


def test_what_is_registered() -> None:
    always: dict[str, Any] = {
        "model_name": "m",
        "model_version": "1",
        "input_type": "doubles",
        "container_name": "image",
        "labels": (),
        "make_current": True,
        "batch_size": -1,
        "batch_delay_micros": 0,
        "batch_wait": True,
    }
    assert PLAIN.to_json() == always
    told = ModelSpec.checked(
        name="m",
        version=2,
        input_type="floats",
        image="image",
        labels=["a", "b"],
        num_replicas=3,
        resources=Resources(cpus=1.0),
        make_current=False,
        batch_policy="aimd",
        batch_delay_micros=500,
        max_output_bytes=1 << 20,
        batch_wait=False,
    ).to_json()
    changed = {"model_version": "2", "input_type": "floats", "labels": ("a", "b"), "make_current": False}
    assert told == always | changed | {
        "batch_policy": "aimd",
        "batch_delay_micros": 500,
        "max_output_bytes": 1 << 20,
        "batch_wait": False,
    }


@pytest.mark.parametrize(
    ("option", "value", "advice"),
    [
        ("input_type", "words", "It should be one of bytes, integers, floats, doubles, strings"),
        ("image", "", "It should be a text"),
        ("labels", "one", "It should be a list of texts"),
        ("num_replicas", -1, "It should be a whole number, 0 or more"),
        ("batch_size", 0, "or -1 to let Clipper learn it"),
        ("batch_policy", "fast", "It should be one of"),
        ("batch_delay_micros", 0.5, "It should be a whole number, from 0 to 2147483647"),
        ("max_output_bytes", 1, "It should be a whole number, from 65536 to 1073741824"),
    ],
)
def test_an_option_that_cannot_be_is_named(option: str, value: Any, advice: str) -> None:
    with pytest.raises(ClipperException, match=f"Invalid value: {option}=.*{advice}"):
        check_options(**{option: value})


def test_it_is_shown_as_in_lists() -> None:
    assert str(PLAIN) == "m:1"
