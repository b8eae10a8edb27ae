"""``python -m query_frontend``."""

from query_frontend import app
from query_frontend.config import parse_arguments
from query_frontend.workers import prefork

if __name__ == "__main__":
    prefork.run(parse_arguments(), app.run)
