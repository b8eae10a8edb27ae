"""Serves a pickled Python function."""

from clipper_common.modeldir import load_function

from .function_container import serve

if __name__ == "__main__":
    serve(load_function)
