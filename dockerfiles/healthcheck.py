"""The health check of the frontends: ``healthcheck.py PORT PATH`` succeeds if GET is answered with 200."""

import sys
from http.client import HTTPConnection

port, path = sys.argv[1:]
connection = HTTPConnection("127.0.0.1", int(port), timeout=2.5)
connection.request("GET", path)
sys.exit(connection.getresponse().status != 200)
