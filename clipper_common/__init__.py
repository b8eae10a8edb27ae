"""Facts that Clipper's four programs share. A leaf package: it imports none of them."""

__version__ = "0.5.0"
