"""`python -m management_frontend`: the program."""

import sys

from management_frontend import app
from management_frontend.config import Config

if __name__ == "__main__":
    app.run(Config.parse(sys.argv[1:]))
