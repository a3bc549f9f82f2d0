"""A connection until it is known who is at its other end: which requests are taken, in which order, and how it ends.

ApiVersions, then SaslHandshake, then the mechanism's tokens: in SaslAuthenticate requests, or, after version 0 of the
handshake, bare, each behind its length (KIP-43, 152). Anything else ends the connection. So does a failure, a moment
behind an answer that comes late, so that guessing is slow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from corgi.base.errors import CorgiError
from corgi.base.limits import KIB
from corgi.kafka.errors import Code
from corgi.kafka.sasl import Exchange, Known, Onward, Outcome, Outside, Refused, begin

if TYPE_CHECKING:
    from corgi.kafka.session import KafkaSession

API_VERSIONS, HANDSHAKE, AUTHENTICATE = 18, 17, 36
ALLOWED = frozenset((API_VERSIONS, HANDSHAKE, AUTHENTICATE))
REQUEST_BYTES_MAX = 32 * KIB  # of who has not said who it is
REQUESTS_MAX = 20  # clients need four to six
FAILURE_DELAY_S = 0.1  # what Kafka's connection.failed.authentication.delay.ms is
GOODBYE_S = 0.3  # between that answer and the end: kafka-python loses an answer that comes together with the end
_SIZE_BYTES = 4


class Login:
    """See the module. Ends by ``session.admit``."""

    __slots__ = ("_exchange", "_mechanism", "_outside", "_requests", "_session", "_waiting", "mechanisms", "raw")

    def __init__(self, session: KafkaSession, mechanisms: tuple[str, ...], outside: Outside) -> None:
        self.mechanisms = mechanisms
        self.raw = False  # bare tokens come from now on
        self._session = session
        self._outside = outside
        self._mechanism = ""
        self._exchange: Exchange | None = None
        self._requests = 0
        self._waiting = False

    def count(self) -> None:
        """Something was received. Raises CorgiError if the connection cannot go on."""
        self._requests += 1
        if self._requests > REQUESTS_MAX:
            raise CorgiError("authentication-failed", f"{REQUESTS_MAX} requests, and no user known")
        if self._waiting:
            raise CorgiError("authentication-failed", "a request came before the last token was answered")

    def choose(self, mechanism: str, *, raw: bool) -> Code:
        """The handshake."""
        if self._exchange is not None:
            return Code.ILLEGAL_SASL_STATE
        if mechanism not in self.mechanisms:
            return Code.UNSUPPORTED_SASL_MECHANISM
        self._mechanism = mechanism
        self._exchange = begin(mechanism, self._session.front.options.security.credential, self._outside)
        self.raw = raw
        return Code.NONE

    def take(self, token: bytes, then: Callable[[Onward | Known], None], refused: Callable[[str], None]) -> None:
        """A token. ``refused`` is called late, with what may be told; the connection ends behind it.

        Raises CorgiError if no mechanism was chosen.
        """
        if self._exchange is None:
            raise CorgiError("authentication-failed", "a token came without a handshake")
        self._waiting = True

        def judged(outcome: Outcome) -> None:
            session = self._session
            if session.closed:
                return
            if isinstance(outcome, Refused):
                session.after(FAILURE_DELAY_S, lambda: self._refuse(outcome.why, refused))
                return
            self._waiting = False
            if isinstance(outcome, Known):
                session.admit(outcome.user)
            then(outcome)

        self._exchange.take(token, judged)

    def take_raw(self, token: bytes) -> None:
        """A bare token; there is no way to say what is wrong with it."""

        def answer(outcome: Onward | Known) -> None:
            self._session.write_raw(len(outcome.token).to_bytes(_SIZE_BYTES) + outcome.token)

        self.take(token, answer, lambda why: None)

    def _refuse(self, why: str, tell: Callable[[str], None]) -> None:
        error = CorgiError("authentication-failed", f"a login by {self._mechanism} failed: {why}")
        if self.raw:
            self._session.fail(error)
            return
        tell(f"{why} ({self._mechanism})")
        self._session.after(GOODBYE_S, lambda: self._session.fail(error))
