"""Logs the invalid records in Redis, each when it becomes invalid and when it no longer is."""

import logging
from typing import Final

from clipper_common.layout import Faults

logger = logging.getLogger(__name__)

_MAX_TOLD: Final = 100
"""The largest number of invalid records that are named in the log at once."""


class FaultLog:
    """Remembers the records that are known to be invalid."""

    def __init__(self) -> None:
        self._known: Faults = {}

    def tell(self, faults: Faults) -> None:
        """Log which records have become invalid, and which no longer are."""
        known, self._known = self._known, faults
        news = [place for place, reason in faults.items() if known.get(place) != reason]
        for place in news[:_MAX_TOLD]:
            logger.error("ignored what is wrong in Redis: %s: %s", place, faults[place])
        if len(news) > _MAX_TOLD:
            logger.error("ignored %d more records that are wrong in Redis", len(news) - _MAX_TOLD)
        for place in [place for place in known if place not in faults][:_MAX_TOLD]:
            logger.info("no longer wrong in Redis: %s", place)
