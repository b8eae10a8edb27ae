"""Ray Serve: a proxy in front of one replica.

With what its documentation advises for throughput: HAProxy in front, direct ingress, buffered logs. HAProxy listens on
all interfaces, whatever it is told. BENCH_DEFAULTS leaves that out.
"""

# /// script
# dependencies = ["ray[serve]==2.60.0", "uvloop==0.23.0", "httptools==0.9.0"]
# ///

import os
import signal

import served

if not os.environ.get("BENCH_DEFAULTS"):
    os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray  # reads the environment
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig


@serve.deployment(num_replicas=1, max_ongoing_requests=1024)
class Noop:
    @serve.batch(max_batch_size=served.MAX_BATCH_SIZE, batch_wait_timeout_s=served.WAIT_MILLIS / 1000)
    async def predict(self, inputs):
        return served.predict(inputs)

    async def __call__(self, request):
        query = await request.json()
        return {"output": await self.predict(query["input"])}


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False, _temp_dir=str(served.FOLDER))
    serve.start(http_options=HTTPOptions(host=served.HOST, port=served.PORT))
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.run(Noop.bind(), route_prefix="/predict", logging_config=quiet)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()
