"""Whether this package stands alone in its folder."""

from pathlib import Path
from typing import Final

_OF_0_4: Final = ("VERSION.txt", "decorators.py")
"""Files of the package ``clipper_admin`` 0.4.1 of the package index, which this version does not have."""


def check() -> None:
    """Raise ImportError where an installer put files of Clipper 0.4.1 among ours."""
    folder = Path(__file__).parent
    if found := [name for name in _OF_0_4 if (folder / name).exists()]:
        raise ImportError(
            f"In {folder} are files of clipper_admin 0.4.1 ({', '.join(found)}), of the package index, beside those of "
            "this version. Run 'pip uninstall clipper_admin' until pip finds none, delete what is left of that folder, "
            "and install this version again: 'pip install .' in its checkout."
        )
