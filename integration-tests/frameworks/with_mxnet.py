"""A fitted module. Its function takes batches of any size."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import mxnet as mx
from run import Model, samples

from clipper_admin.deployers import mxnet as mxnet_deployer


def fitted() -> tuple[mx.mod.Module, Any]:
    mx.random.seed(0)
    inputs, classes = samples(500)
    iterator = mx.io.NDArrayIter(inputs, classes, batch_size=50)
    hidden = mx.sym.Activation(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=8), act_type="relu")
    net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(hidden, num_hidden=3), name="softmax")
    module = mx.mod.Module(net)
    module.fit(iterator, num_epoch=10, optimizer="adam", optimizer_params={"learning_rate": 0.01})
    return module, iterator.provide_data


def predict(model: mx.mod.Module, inputs: Any) -> Any:
    model.forward(mx.io.DataBatch([mx.nd.array(inputs)]), is_train=False)
    return model.get_outputs()[0].asnumpy().tolist()


def directly(module: mx.mod.Module, inputs: Any) -> Any:
    """With a batch of another size than the module is bound to, which the labels of the training must follow."""
    module.reshape([("data", inputs.shape)], [("softmax_label", inputs.shape[:1])])
    return predict(module, inputs)


def models() -> Iterator[Model]:
    module, shapes = fitted()
    create = partial(mxnet_deployer.create_endpoint, func=predict, mxnet_model=module, mxnet_data_shapes=shapes)
    yield Model("mxnet", "floats", create, partial(directly, module))
