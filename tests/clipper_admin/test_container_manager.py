"""The labels that containers carry."""

import pytest

from clipper_admin import ClipperException
from clipper_admin.container_manager import create_model_container_label, parse_model_container_label


def test_labels_are_read_back() -> None:
    label = create_model_container_label("my-model", "1.0")
    assert label == "my-model_1.0"
    assert parse_model_container_label(label) == ("my-model", "1.0")


@pytest.mark.parametrize("label", ["", "my-model", "_1", "m_", "a_b_c"])
def test_other_labels_are_refused(label: str) -> None:
    with pytest.raises(ClipperException, match=f"'{label}' is no model container label"):
        parse_model_container_label(label)
