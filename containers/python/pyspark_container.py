"""Serves a Spark model on a Spark of its own: ``func(spark_session, model, inputs)``."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipper_common import modeldir

from .function_container import serve


def load(folder: Path) -> Callable[[Any], Any]:
    from pyspark.sql import SparkSession  # here, so that its absence is explained

    spark = (
        SparkSession.builder.appName("clipper-pyspark")
        .master("local[*]")
        .config("spark.ui.enabled", "false")
        # It talks to itself alone.
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    model = _load_model(spark, folder)
    function = modeldir.load_function(folder)
    return lambda inputs: function(spark, model, inputs)


def _load_model(spark: Any, folder: Path) -> Any:
    class_name = json.loads((folder / modeldir.SPARK_METADATA_FILE).read_text())["model_class"]
    module, _, name = class_name.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    path = str(folder / modeldir.SPARK_FOLDER)
    # Classes of the older package are loaded by the Spark context.
    return kind.load(spark.sparkContext, path) if module.startswith("pyspark.mllib") else kind.load(path)


if __name__ == "__main__":
    serve(load)
