"""The HTTP side: connections, requests, and the bodies of requests and answers."""
