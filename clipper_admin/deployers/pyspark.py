"""Deploys Spark models: pipelines of ``pyspark.ml`` and models of ``pyspark.mllib``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from clipper_admin import images
from clipper_admin.clipper_admin import ClipperConnection, Version
from clipper_admin.deployers.deployer_utils import deploy_function, explained, make_endpoint
from clipper_admin.deployers.options import DeployOptions, EndpointOptions, with_options
from clipper_common import modeldir
from clipper_common.modeldir import PredictFunction

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession


@with_options()
def create_endpoint(
    clipper_conn: ClipperConnection,
    name: str,
    input_type: str,
    func: PredictFunction,
    pyspark_model: Any,
    sc: "SparkContext | SparkSession",
    **options: Unpack[EndpointOptions],
) -> None:
    """Register an application, deploy a Spark model as a model of the same name, and link the two.

    Parameters
    ----------
    {endpoint}
    input_type, func, pyspark_model, sc
        As in `deploy_pyspark_model`.
    {endpoint_options}
    """
    make_endpoint(deploy_pyspark_model, clipper_conn, name, input_type, func, pyspark_model, sc, **options)


@with_options()
def deploy_pyspark_model(
    clipper_conn: ClipperConnection,
    name: str,
    version: Version,
    input_type: str,
    func: PredictFunction,
    pyspark_model: Any,
    sc: "SparkContext | SparkSession",
    **options: Unpack[DeployOptions],
) -> None:
    """Deploy a Spark model, and a function that predicts with it, as a model.

    Parameters
    ----------
    {head}
    func : function
        Called as ``func(spark, model, inputs)``, with a ``SparkSession``.
        {inputs}
    pyspark_model : pyspark.ml.PipelineModel, or another model of pyspark.ml or pyspark.mllib
        Anything that can be saved, and loaded by its class.
    sc : SparkContext or SparkSession
        The Spark that made the model: it writes it.
    {options}

    Examples
    --------
    ::

        def predict(spark, model, inputs):
            return [str(model.predict(x)) for x in inputs]

        deploy_pyspark_model(clipper_conn, "digits", 1, "doubles", predict, model, spark.sparkContext)
    """
    deploy_function(
        clipper_conn,
        name,
        version,
        input_type,
        func,
        images.PYSPARK,
        lambda folder: _save(pyspark_model, sc, folder),
        ["spark", "model", "inputs"],
        **options,
    )


def _save(model: Any, sc: "SparkContext | SparkSession", folder: Path) -> tuple[str, ...]:
    kind = type(model)
    metadata = {"model_class": f"{kind.__module__}.{kind.__qualname__}"}
    (folder / modeldir.SPARK_METADATA_FILE).write_text(json.dumps(metadata))
    target = (folder / modeldir.SPARK_FOLDER).as_uri()  # of this machine, wherever Spark would write by itself
    with explained("pyspark_model", "The model cannot be saved"):
        if kind.__module__.startswith("pyspark.mllib."):
            model.save(getattr(sc, "sparkContext", sc), target)
        else:
            model.save(target)
    return ()
