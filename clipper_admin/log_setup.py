"""Makes the SDK's messages visible to a user who did not set up logging."""

import logging

from clipper_common.constants import LOG_DATE_FORMAT, LOG_FORMAT


def show_messages() -> None:
    """Give the logger `clipper_admin` a handler, unless there is one already that gets its messages."""
    logger = logging.getLogger("clipper_admin")
    if logger.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT, LOG_DATE_FORMAT))
    # A root logger that is configured later shows our messages itself.
    handler.addFilter(lambda record: not logging.getLogger().handlers)
    logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
