"""``python -m query_frontend``."""

from query_frontend.app import run
from query_frontend.config import parse_arguments

if __name__ == "__main__":
    run(parse_arguments())
