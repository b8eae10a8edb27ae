"""The log of the records in Redis that are wrong: each is named when it becomes wrong, and when it is so no more."""

import logging
from typing import Final

from clipper_common.layout import Faults

logger = logging.getLogger(__name__)

_MAX_TOLD: Final = 100
"""The most wrong records that are named in the log at once."""


class FaultLog:
    """The records that are known to be wrong."""

    def __init__(self) -> None:
        self._known: Faults = {}

    def tell(self, faults: Faults) -> None:
        """Log what is newly wrong, and what is so no more."""
        known, self._known = self._known, faults
        news = [place for place, reason in faults.items() if known.get(place) != reason]
        for place in news[:_MAX_TOLD]:
            logger.error("ignored what is wrong in Redis: %s: %s", place, faults[place])
        if len(news) > _MAX_TOLD:
            logger.error("ignored %d more records that are wrong in Redis", len(news) - _MAX_TOLD)
        for place in [place for place in known if place not in faults][:_MAX_TOLD]:
            logger.info("no longer wrong in Redis: %s", place)
