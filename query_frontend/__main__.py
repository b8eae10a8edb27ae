"""``python -m query_frontend``."""

from query_frontend import app, owner
from query_frontend.config import parse_arguments

if __name__ == "__main__":
    owner.run(parse_arguments(), app.run)
