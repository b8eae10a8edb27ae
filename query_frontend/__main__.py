"""``python -m query_frontend``."""

from query_frontend import app
from query_frontend.config import Config
from query_frontend.workers import prefork

if __name__ == "__main__":
    prefork.run(Config.parse(), app.run)
