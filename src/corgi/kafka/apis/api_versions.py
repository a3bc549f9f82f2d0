"""ApiVersions (18), versions 0 to 4: which APIs are served in which versions (KIP-35, 511).

A version that is not known is answered in version 0 with UNSUPPORTED_VERSION and the whole list, so that the client
can come back with one that is (the one exception to closing the connection). No features are told: what
``transaction.version`` and ``group.version`` switch on is not served.
"""

from __future__ import annotations

import re
from typing import Annotated

from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Since
from corgi.kafka.errors import Code
from corgi.kafka.login import API_VERSIONS
from corgi.kafka.session import told_versions

_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")
_FLEXIBLE = 3


class Request(Body, frozen=True):
    software_name: Annotated[str, Since(3)] = ""
    software_version: Annotated[str, Since(3)] = ""


class Versions(Body, frozen=True):
    key: Int16
    lowest: Int16
    highest: Int16


class Response(Body, frozen=True):
    error: Int16
    apis: tuple[Versions, ...]
    throttle_ms: Annotated[Int32, Since(1)] = 0


def handle(call: Call[Request]) -> None:
    """Answered at once. A call without a request came in a version that is not known."""
    error = Code.NONE
    request: Request | None = call.request
    if request is None:
        error = Code.UNSUPPORTED_VERSION
    elif call.version >= _FLEXIBLE and not _sound(request):
        error = Code.INVALID_REQUEST
    call.answer(Response(error, tuple([Versions(*told) for told in told_versions(call.front.apis)])))


def _sound(request: Request) -> bool:
    return all(_SOFTWARE.fullmatch(text) for text in (request.software_name, request.software_version))


API = Api(
    API_VERSIONS, "ApiVersions", (0, 4), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle,
    plain_header=True,
)  # fmt: skip
