"""A model of layers, as an object and as a file; and one of a class of the user's own."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import keras
from run import Model, samples

from clipper_admin.deployers import keras as keras_deployer


@keras.saving.register_keras_serializable("own")
class Classifier(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dense = keras.layers.Dense(3, activation="softmax")

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)


def trained(model: keras.Model) -> keras.Model:
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss="sparse_categorical_crossentropy")
    model.fit(*samples(500), epochs=5, verbose=0)
    return model


def predict(model: keras.Model, inputs: Any) -> Any:
    return model.predict_on_batch(inputs).tolist()


def models() -> Iterator[Model]:
    layers = [keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3, activation="softmax")]
    model = trained(keras.Sequential(layers))
    create = partial(keras_deployer.create_endpoint, func=predict)
    yield Model("keras", "floats", partial(create, model_path_or_object=model), partial(predict, model))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        yield Model("keras-file", "floats", partial(create, model_path_or_object=path), partial(predict, model))

    own = trained(Classifier())
    yield Model("keras-class", "floats", partial(create, model_path_or_object=own), partial(predict, own))
