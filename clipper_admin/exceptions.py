"""Clipper's exceptions, under the name by which users import them."""

from clipper_common.errors import ClipperException, UnconnectedException

__all__ = ["ClipperException", "UnconnectedException"]
