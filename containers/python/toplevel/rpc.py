"""Makes ``import rpc`` import ``clipper_containers.rpc`` itself."""

import sys
from importlib import import_module

sys.modules[__name__] = import_module("clipper_containers.rpc")
