"""Records in Redis that are wrong, where a request needs one of them."""

from clipper_common.errors import RequestError
from clipper_common.layout import Faults, Place


class WrongRecordError(RequestError):
    """The request needs a record that is wrong."""

    status = 409
    label = "Wrong record in Redis"


def need(faults: Faults, *places: Place) -> None:
    """Raise `WrongRecordError` if a record in one of the `places` is wrong. That there is none is another matter."""
    for place in places:
        if place in faults:
            raise WrongRecordError(f"What Redis has as {place} cannot be used: {faults[place]}. Mend it or delete it.")
