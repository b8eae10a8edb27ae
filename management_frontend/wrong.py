"""The error for a request that needs an invalid record in Redis."""

from clipper_common.errors import RequestError
from clipper_common.layout import Faults, Place


class WrongRecordError(RequestError):
    """The request needs a record that is invalid."""

    status = 409
    label = "Wrong record in Redis"


def need(faults: Faults, *places: Place) -> None:
    """Raise `WrongRecordError` if a record in one of the `places` is invalid. A missing record is no error here."""
    for place in places:
        if place in faults:
            raise WrongRecordError(f"What Redis has as {place} cannot be used: {faults[place]}. Mend it or delete it.")
