import os
from importlib.util import find_spec
from pathlib import Path

import pytest

import query_frontend

ROOT = Path(query_frontend.__file__).parents[1]
TYPES = sorted(path for name in ("clipper_common", "query_frontend") for path in (ROOT / name).rglob("*.pxd"))


@pytest.mark.parametrize("types", TYPES, ids=lambda path: ".".join(path.relative_to(ROOT).with_suffix("").parts))
def test_these_tests_are_of_the_code_that_they_should_be(types: Path) -> None:
    """Modules are imported from the sources or their compiled copy: compiled in place, they would hide changes."""
    spec = find_spec(".".join(types.relative_to(ROOT).with_suffix("").parts))
    assert spec is not None and spec.origin is not None
    is_wanted = "compiled" in os.environ.get("CLIPPER_REQUIRE", "").split(",")
    assert Path(spec.origin).suffix == (".so" if is_wanted else ".py")
    assert Path(spec.origin).parent == types.parent
