"""mosec: HTTP in Rust, models in Python processes behind Unix sockets."""

# /// script
# dependencies = ["mosec==0.9.8", "orjson==3.13.0"]
# ///

import os
import sys

import orjson
import served
from mosec import Server, Worker


class Noop(Worker):
    def forward(self, data):
        return [{"output": output} for output in served.predict([query["input"] for query in data])]


class NoopWithOrjson(Noop):
    """Workers read and write JSON with the standard library unless these two are replaced."""

    def deserialize(self, data):
        return orjson.loads(data)

    def serialize(self, data):
        return orjson.dumps(data)


if __name__ == "__main__":
    options = {"port": served.PORT, "address": served.HOST, "log-level": "warning", "path": served.FOLDER / "sockets"}
    sys.argv[1:] = [f"--{name}={value}" for name, value in options.items()]
    worker = NoopWithOrjson if os.environ.get("BENCH_ORJSON") else Noop
    server = Server()
    server.append_worker(worker, num=1, max_batch_size=served.MAX_BATCH_SIZE, max_wait_time=served.WAIT_MILLIS)
    server.run()
