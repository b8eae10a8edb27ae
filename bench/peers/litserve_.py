"""LitServe: FastAPI in front of a worker process, connected by its fast queue (ZeroMQ)."""

# /// script
# dependencies = ["litserve==0.2.19", "uvloop==0.23.0", "httptools==0.9.0"]
# ///

import litserve
import served


class Noop(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["input"]

    def batch(self, inputs):
        return inputs

    def predict(self, inputs):
        return served.predict(inputs)

    def unbatch(self, outputs):
        return outputs

    def encode_response(self, output):
        return {"output": output}


if __name__ == "__main__":
    api = Noop(max_batch_size=served.MAX_BATCH_SIZE, batch_timeout=served.WAIT_MILLIS / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host=served.HOST,
        port=served.PORT,
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
