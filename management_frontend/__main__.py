"""The program ``python -m management_frontend``."""

from management_frontend import app
from management_frontend.config import Config

if __name__ == "__main__":
    app.run(Config.parse())
