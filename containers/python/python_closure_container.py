"""Serves a pickled Python function."""

from clipper_common.modeldir import load_function

from .function_container import FunctionContainer, load_or_exit
from .rpc import RPCService


def main() -> None:
    service = RPCService()
    service.start(FunctionContainer(load_or_exit(load_function, service.get_model_path())))


if __name__ == "__main__":
    main()
