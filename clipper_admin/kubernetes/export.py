"""Manifests as YAML, for people and for tools that apply folders. Pure."""

import re
from collections.abc import Iterable
from typing import Final

from clipper_admin.kubernetes.pods import Manifest

_NUMBER: Final = re.compile(r"^\d\d-")


def to_yaml(found: Iterable[Manifest]) -> str:
    """Return a YAML document for each object. The same objects make the same text."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return "---\n".join(yaml.dump(object_, Dumper=Dumper, sort_keys=False, width=120) for object_ in found)


def files(found: Iterable[Manifest]) -> dict[str, str]:
    """YAML by file names that sort in the order in which the objects are applied."""
    return {
        f"{number:02}-{object_['kind'].lower()}-{object_['metadata']['name']}.yaml": to_yaml([object_])
        for number, object_ in enumerate(found)
    }


def replaced(files: Iterable[str], there: Iterable[str]) -> list[str]:
    """Return the existing files that have a former state of these objects, under another number.

    ``kubectl apply`` would apply both, the former one last if its number is higher.
    """
    new = set(files)
    objects = {_NUMBER.sub("", name) for name in new}
    return [name for name in there if name not in new and _NUMBER.match(name) and _NUMBER.sub("", name) in objects]
