"""A pipeline of pyspark.ml, which predicts by data frames, and a model of pyspark.mllib, which takes one input."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import VectorAssembler
from pyspark.mllib.classification import LogisticRegressionWithLBFGS
from pyspark.mllib.regression import LabeledPoint
from pyspark.sql import SparkSession
from run import Model, samples

from clipper_admin.deployers import pyspark as pyspark_deployer

COLUMNS = ["a", "b", "c", "d"]


def predict_by_frame(spark: SparkSession, model: Any, inputs: Any) -> list[list[float]]:
    frame = spark.createDataFrame([tuple(map(float, row)) for row in inputs], COLUMNS)
    return [row.probability.toArray().tolist() for row in model.transform(frame).collect()]


def predict_one_by_one(spark: SparkSession, model: Any, inputs: Any) -> list[float]:
    model.clearThreshold()  # then it says how probable the class is
    return [model.predict(row) for row in inputs]


def models() -> Iterator[Model]:
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    rows = [(*map(float, row), float(kind)) for row, kind in zip(*samples(200), strict=True)]
    frame = spark.createDataFrame(rows, [*COLUMNS, "label"])
    stages = [VectorAssembler(inputCols=COLUMNS, outputCol="features"), LogisticRegression(maxIter=10)]
    pipeline = Pipeline(stages=stages).fit(frame)
    create = partial(
        pyspark_deployer.create_endpoint, func=predict_by_frame, pyspark_model=pipeline, sc=spark.sparkContext
    )
    yield Model("pyspark-ml", "doubles", create, partial(predict_by_frame, spark, pipeline))

    points = [LabeledPoint(float(row[-1] > 0), row[:-1]) for row in rows]
    old = LogisticRegressionWithLBFGS.train(spark.sparkContext.parallelize(points), iterations=10)
    create = partial(
        pyspark_deployer.create_endpoint, func=predict_one_by_one, pyspark_model=old, sc=spark.sparkContext
    )
    yield Model("pyspark-mllib", "doubles", create, partial(predict_one_by_one, spark, old))
    spark.stop()
