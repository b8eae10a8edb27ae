"""Manifests as YAML, for people and for tools that apply folders. Pure."""

from collections.abc import Iterable

from clipper_admin.kubernetes.pods import Manifest


def to_yaml(objects: Iterable[Manifest]) -> str:
    """One document for each object. The same objects make the same text."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    documents = [yaml.dump(found, Dumper=Dumper, sort_keys=False, width=120) for found in objects]
    return "---\n".join(documents)


def files(objects: Iterable[Manifest]) -> dict[str, str]:
    """YAML by file names that sort in the order in which the objects are applied."""
    return {
        f"{number:02}-{found['kind'].lower()}-{found['metadata']['name']}.yaml": to_yaml([found])
        for number, found in enumerate(objects)
    }
