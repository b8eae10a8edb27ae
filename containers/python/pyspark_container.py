"""Serves a Spark model on a local Spark of its own: ``func(spark_session, model, inputs)``."""

import atexit
import importlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipper_common import modeldir

from .function_container import serve


def load(folder: Path) -> Callable[[Any], Any]:
    from pyspark.sql import SparkSession  # here, so that a failure is reported by `load_or_exit`

    spark = (
        SparkSession.builder.appName("clipper-pyspark")
        .master("local[*]")
        .config("spark.ui.enabled", "false")
        # Its parts connect to each other only.
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    function = modeldir.load_function(folder)  # first, since it may define the class of the model
    model = _load_model(spark, folder)
    return lambda inputs: function(spark, model, inputs)


def _load_model(spark: Any, folder: Path) -> Any:
    class_name = json.loads((folder / modeldir.SPARK_METADATA_FILE).read_text())["model_class"]
    module, _, name = class_name.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    path = _plain_path(folder / modeldir.SPARK_FOLDER)
    # Classes of the older package mllib take the Spark context.
    return kind.load(spark.sparkContext, path) if module.startswith("pyspark.mllib") else kind.load(path)


def _plain_path(path: Path) -> str:
    """Return the path, or a symbolic link to it if it has characters that mllib would escape twice."""
    if quote(str(path)) == str(path):
        return str(path)
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)  # at exit, since some models read their files when they predict
    link = Path(folder) / path.name
    link.symlink_to(path)
    return str(link)


if __name__ == "__main__":
    serve(load)
