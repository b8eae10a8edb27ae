"""Sends an image to a model: bytes travel in JSON as Base64."""

import base64
import json
import struct
import sys
import zlib
from typing import Any

import requests

from clipper_admin import ClipperConnection, ProcessContainerManager
from clipper_admin.deployers import python as python_deployer


def main() -> None:
    clipper_conn = ClipperConnection(ProcessContainerManager(cluster_name="image-query"))
    clipper_conn.start_clipper()
    try:
        deploy(clipper_conn)
        address = clipper_conn.get_query_addr()
        for width, height in [(640, 480), (3, 5)]:
            predict(address, grey_png(width, height))
        # The same through the connection, which encodes bytes itself:
        print(clipper_conn.predict("image-example", grey_png(800, 600)))
    finally:
        clipper_conn.stop_all()


def deploy(clipper_conn: ClipperConnection) -> None:
    def image_size(images: Any) -> list[str]:
        """The width and height of each image, as JSON. An image is an array of int8."""
        import json
        import struct

        return [json.dumps(struct.unpack(">II", image.tobytes()[16:24])) for image in images]

    python_deployer.create_endpoint(clipper_conn, name="image-example", version=1, input_type="bytes", func=image_size)


def predict(address: str, image: bytes) -> None:
    # b64encode returns bytes, which JSON cannot hold: decode() makes a text of them.
    query = json.dumps({"input": base64.b64encode(image).decode()})
    headers = {"Content-type": "application/json"}
    answer = requests.post(f"http://{address}/image-example/predict", headers=headers, data=query, timeout=10)
    answer.raise_for_status()
    print(answer.json())


def grey_png(width: int, height: int) -> bytes:
    """An image to send. Yours may come from ``open("cat.png", "rb").read()``."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
