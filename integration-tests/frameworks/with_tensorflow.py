"""A session, and a SavedModel of TensorFlow 2."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf
from run import Model, samples

from clipper_admin.deployers import tensorflow as tensorflow_deployer


def session() -> tf.compat.v1.Session:
    inputs, classes = samples(500)
    with tf.Graph().as_default() as graph:
        points = tf.compat.v1.placeholder(tf.float32, [None, 4], name="points")
        labels = tf.compat.v1.placeholder(tf.int64, [None])
        weights = tf.compat.v1.get_variable("weights", [4, 3], initializer=tf.zeros_initializer())
        logits = tf.matmul(points, weights)
        tf.nn.softmax(logits, name="scores")
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        step = tf.compat.v1.train.GradientDescentOptimizer(0.5).minimize(loss)
        session = tf.compat.v1.Session(graph=graph)
        session.run(tf.compat.v1.global_variables_initializer())
        for _ in range(100):
            session.run(step, {points: inputs, labels: classes})
    return session


class Classifier(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable(tf.random.stateless_normal([4, 3], seed=[1, 2]))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="points")])
    def scores(self, points: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"scores": tf.nn.softmax(points @ self.weights)}


def predict_by_graph(session: Any, inputs: Any) -> Any:
    return session.run("scores:0", {"points:0": inputs}).tolist()


def predict_by_signature(session: Any, inputs: Any) -> Any:
    return session.run("StatefulPartitionedCall:0", {"serving_default_points:0": inputs}).tolist()


def models() -> Iterator[Model]:
    trained = session()
    create = partial(tensorflow_deployer.create_endpoint, func=predict_by_graph, tf_sess_or_saved_model_path=trained)
    yield Model("tensorflow-session", "floats", create, partial(predict_by_graph, trained))

    classifier = Classifier()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "saved")
        tf.saved_model.save(classifier, path, signatures=classifier.scores)
        create = partial(
            tensorflow_deployer.create_endpoint, func=predict_by_signature, tf_sess_or_saved_model_path=path
        )
        yield Model(
            "tensorflow-savedmodel", "floats", create, lambda inputs: classifier.scores(inputs)["scores"].numpy()
        )
