"""Clipper's exceptions.

::

    ClipperException
    ├── UnconnectedException      the SDK was used before it was connected
    ├── WireError                 malformed bytes on the RPC connection
    │   └── MetadataError         ... in the metadata of a container
    ├── RecordError               an invalid record in Redis
    ├── PolicyError               a selection policy, or an option of one, that cannot be used
    └── RequestError              an HTTP request that cannot be served (status, label)
        ├── JsonError             ... because of its JSON
        └── QueryError            ... because of the model or version that it names

`status` is the HTTP status of an error, `label` the word for its kind in JSON answers.
"""


class ClipperException(Exception):
    """Something went wrong in Clipper. The text says what, and where possible what to do next.

    Attributes
    ----------
    msg : str
        The text.
    """

    def __init__(self, msg: str, *args: object) -> None:
        super().__init__(msg, *args)
        self.msg = msg

    def __str__(self) -> str:
        return str(self.msg)


class UnconnectedException(ClipperException):
    """A ``ClipperConnection`` must be connected to a cluster before it can do this."""

    def __init__(self, *args: object) -> None:
        self.message = (
            "No connection to a Clipper cluster. Call start_clipper() to start one, or connect() to use a running one."
        )
        super().__init__(self.message, *args)


class WireError(ClipperException):
    """Raised when a message on the RPC connection has the wrong form."""


class MetadataError(WireError):
    """The metadata of a container cannot be accepted.

    Attributes
    ----------
    rpc_version : int
        The version of the RPC that the container speaks.
    """

    def __init__(self, msg: str, rpc_version: int) -> None:
        super().__init__(msg)
        self.rpc_version = rpc_version


class RecordError(ClipperException):
    """A record in Redis has the wrong form."""


class PolicyError(ClipperException):
    """A selection policy, or an option of one, cannot be used.

    Attributes
    ----------
    option : str
        The name of the option; empty if another thing is wrong.
    """

    def __init__(self, msg: str, option: str = "") -> None:
        super().__init__(msg)
        self.option = option


class RequestError(ClipperException):
    """An HTTP request that is answered with an error."""

    status = 400
    label = "Request error"


class JsonError(RequestError):
    """The JSON of a request is malformed or not what was expected.

    Attributes
    ----------
    rest : str
        Up to 16 characters from where the text is malformed; empty for other errors.
    """

    def __init__(self, msg: str, rest: str = "") -> None:
        super().__init__(msg)
        self.rest = rest

    label = "Json error"


class QueryError(RequestError):
    """The request is well formed, but its model or version does not exist."""

    label = "Query processing error"
