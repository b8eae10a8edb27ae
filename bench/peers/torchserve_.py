"""TorchServe: Netty in front of a Python worker behind a Unix socket. Needs Java 11 or later."""

# /// script
# dependencies = ["torchserve==0.12.0", "torch-model-archiver==0.12.0", "torch==2.13.0", "pyyaml==6.0.3",
#   "psutil==7.2.2", "requests==2.34.2", "setuptools==80.9.0"]
# ///

import json
import os
import subprocess
import sys

import served

QUIET = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="warn">
  <Appenders><Console name="console"><PatternLayout pattern="%p %c %m%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="console"/></Root></Loggers>
</Configuration>
"""


class Noop:
    """A handler, as the worker loads it from the model's archive."""

    def initialize(self, context):
        pass

    def handle(self, data, context):
        return [{"output": output} for output in served.predict([query["body"]["input"] for query in data])]


def config():
    model = {"defaultVersion": True, "marName": "noop.mar", "minWorkers": 1, "maxWorkers": 1, "responseTimeout": 60}
    model |= {"batchSize": served.MAX_BATCH_SIZE, "maxBatchDelay": served.WAIT_MILLIS}
    spare = iter(served.SPARE_PORTS)
    return {
        "inference_address": f"http://{served.HOST}:{served.PORT}",
        "management_address": f"http://{served.HOST}:{next(spare)}",
        "metrics_address": f"http://{served.HOST}:{next(spare)}",
        "grpc_inference_port": next(spare),
        "grpc_management_port": next(spare),
        "model_store": served.FOLDER,
        "load_models": "noop.mar",
        "models": json.dumps({"noop": {"1.0": model}}),
        "job_queue_size": 1024,
        "disable_system_metrics": "true",
    }


if __name__ == "__main__":
    programs = os.path.dirname(sys.executable)
    archive = {"model-name": "noop", "version": "1.0", "handler": __file__, "export-path": served.FOLDER}
    archive["extra-files"] = served.__file__
    options = [f"--{name}={value}" for name, value in archive.items()]
    subprocess.run([os.path.join(programs, "torch-model-archiver"), *options], check=True)
    (served.FOLDER / "config.properties").write_text("".join(f"{name}={value}\n" for name, value in config().items()))
    (served.FOLDER / "log4j2.xml").write_text(QUIET)
    files = [f"--ts-config={served.FOLDER}/config.properties", f"--log-config={served.FOLDER}/log4j2.xml"]
    program = os.path.join(programs, "torchserve")
    environment = os.environ | {"LOG_LOCATION": str(served.FOLDER), "METRICS_LOCATION": str(served.FOLDER)}
    os.execve(program, [program, "--start", "--foreground", "--ncs", "--disable-token-auth", *files], environment)
