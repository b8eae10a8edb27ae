"""The program ``python -m query_frontend.exporter``."""

from query_frontend.exporter.server import main

main()
