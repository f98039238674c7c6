"""What can go wrong between a client and a server, under gRPC's names, and how it is said in one line.

A transport raises `Failure`; the client makes it a `ServerError`, which names the server, the model and the remedy. Of
what a server says only so much is shown, and only what prints: it may be anybody's text.
"""
from __future__ import annotations

from pipelines.errors import UserError

UNAVAILABLE = "UNAVAILABLE"
DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
CANCELLED = "CANCELLED"
# These are ours. gRPC has no word for them, or calls them UNAVAILABLE, which would be retried in vain.
BAD_ANSWER = "BAD_ANSWER"
DROPPED = "DROPPED"
NOT_TRUSTED = "NOT_TRUSTED"

MEANINGS = {
    UNAVAILABLE: ("is not there, or not ready", "start it, or check `server`"),
    DEADLINE_EXCEEDED: ("did not answer in time", "raise `timeout_s`, or make `tile` smaller"),
    CANCELLED: ("was not waited for", "the client was closed"),
    "NOT_FOUND": ("does not have that model", "check `model_name` and `model_version`"),
    "INVALID_ARGUMENT": ("refuses the request", "check that the model is a generator, and has what `encoding` needs"),
    "FAILED_PRECONDITION": ("can't do that as it is set up", "if it batches, use the `tile` that all its clients use"),
    "UNAUTHENTICATED": ("does not know this caller", "check the authorisation header"),
    "PERMISSION_DENIED": ("does not let this caller in", "check the authorisation header"),
    "RESOURCE_EXHAUSTED": ("has no room for the request", "make `tile` or `in_flight` smaller"),
    DROPPED: ("dropped the connection mid-way", "try again, or see its log"),
    NOT_TRUSTED: ("can't be trusted", "give the certificate of its authority as `ca_cert`, or check `server`"),
    BAD_ANSWER: ("did not answer with super-resolved pixels", "check `model_name`, and `scale` if given"),
}
LONGEST_REASON = 200
SHORTEST_SECRET = 8


class Failure(Exception):
    """A request failed: `code` says how, `reason` is what the transport or the server says of it."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class ServerError(UserError):
    """A server can't be used as asked; `code` is gRPC's name for it, or BAD_ANSWER, DROPPED or NOT_TRUSTED."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def server_error(server: str, model: str, failure: Failure, secret: str | None = None) -> ServerError:
    """Return a failure as what a user reads.

    Args:
        server: As it was given.
        model: What was asked for.
        failure: What happened.
        secret: The authorisation header: a server that repeats it does not bring it into a log.
    """
    rule, remedy = MEANINGS.get(failure.code, ("failed", "see its log"))
    return ServerError(failure.code, f"{server}: {rule} ({failure.code}, {model}); {remedy}. "
                                     f"Received: {without(secret, shown(failure.reason))}")


def shown(text: str) -> str:
    """Return somebody else's text as one short line of printable characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f"{line[:LONGEST_REASON]} ..." if len(line) > LONGEST_REASON else line or "nothing"


def without(secret: str | None, text: str) -> str:
    """Return `text` with the authorisation header, and each word of it that is long enough to be one, hidden."""
    for word in [secret, *secret.split()] if secret else []:
        if word and len(word) >= SHORTEST_SECRET:
            text = text.replace(word, "(hidden)")
    return text
