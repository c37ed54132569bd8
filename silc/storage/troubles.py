"""What obstore's errors mean: words of our own, and whether trying again can help.

The texts of the errors hold URLs and the bodies of answers, so none of it is passed on. They are searched for a few
known signs; what has none of them is named by its class.
"""

from __future__ import annotations

import re
from http import HTTPStatus

from silc.storage.retry import Lasting, Nothing, Trouble

MAX_TEXT = 1 << 16  # characters of an error that are searched

_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{1,40})</Code>")
_AGAIN = {408, 409, 412, 425, 429, 500, 502, 503, 504, 507, 509}

_CREDENTIALS = "check the credentials (environment, ~/.aws or the usual file of the store) and what they may read"
_CODES = {  # of S3 -> advice; others are not shown
    "AccessDenied": _CREDENTIALS,
    "AllAccessDisabled": _CREDENTIALS,
    "AuthorizationHeaderMalformed": "check the region (AWS_REGION, or ~/.aws/config)",
    "ExpiredToken": "renew the credentials",
    "InvalidAccessKeyId": _CREDENTIALS,
    "InvalidToken": "renew the credentials",
    "NoSuchBucket": "check the name of the bucket",
    "NoSuchKey": "check the address",
    "PermanentRedirect": "check the region (AWS_REGION, or ~/.aws/config)",
    "RequestTimeTooSkewed": "set the clock of this machine",
    "SignatureDoesNotMatch": _CREDENTIALS,
    "InternalError": "",
    "RequestTimeout": "",
    "ServiceUnavailable": "",
    "SlowDown": "",
}

_REFUSED = Lasting.REFUSED
_SIGNS: list[tuple[str, str, str, Lasting]] = [  # sign, words, advice
    ("redirect without LOCATION", "redirected to nowhere", "check the region (AWS_REGION, or ~/.aws/config)", _REFUSED),
    ("certificate", "its TLS certificate is not trusted", "check the host and its certificate", _REFUSED),
    ("BadScheme", "http:// without encryption is not allowed here", "check the endpoint", _REFUSED),
    ("Range request not supported", "the server answers no ranges", "take a server that does", _REFUSED),
    ("NotPartial", "the server answers no ranges", "take a server that does", _REFUSED),
    ("MissingContentLength", "the server tells no Content-Length", "take a server that does", _REFUSED),
    ("NoContentRange", "the server tells no Content-Range", "take a server that does", _REFUSED),
    ("UnexpectedRange", "the server sent other bytes than were asked for", "", Lasting.PASSING),
    ("dns error", "the name of its host is not known", "check the address and the endpoint", Lasting.PASSING),
    ("ConnectionRefused", "connection refused", "", Lasting.PASSING),
    ("ConnectionReset", "connection reset", "", Lasting.PASSING),
    ("kind: Timeout", "timed out", "", Lasting.PASSING),
    ("TimedOut", "timed out", "", Lasting.PASSING),
    ("IncompleteBody", "the answer was cut short", "", Lasting.PASSING),
    ("IncompleteMessage", "the answer was cut short", "", Lasting.PASSING),
    ("kind: Connect", "no connection", "", Lasting.PASSING),
    ("kind: Interrupted", "the connection broke off", "", Lasting.PASSING),
]
_METADATA = ("169.254.169.254", "fd00:ec2::254", "metadata.google.internal", "/latest/api/token")


def past_the_end(error: Exception) -> bool:
    """Whether the answer was that an object has no bytes there."""
    return _status(str(error)[:MAX_TEXT]) == 416


def trouble_of(error: Exception) -> Trouble:
    """What an error of obstore means."""
    text = str(error)[:MAX_TEXT]
    if any(f"//{host}" in text or host in text for host in _METADATA):
        words = "no credentials were found, nor does this machine hand out any"
        return Trouble(words, f"{_CREDENTIALS}; for a public bucket set AWS_SKIP_SIGNATURE=true", _REFUSED)
    if (status := _status(text)) is not None:
        return _answered(status, text)
    if isinstance(error, FileNotFoundError):
        return Nothing("404 Not Found", "check the address", _REFUSED)
    for sign, words, advice, lasting in _SIGNS:
        if sign in text:
            return Trouble(words, advice or "check the store", lasting)
    lasting = _REFUSED if isinstance(error, ValueError) else Lasting.PASSING
    return Trouble(type(error).__name__, "check the store", lasting)


def _status(text: str) -> int | None:
    found = _STATUS.search(text)
    return int(found[1]) if found else None


def _answered(status: int, text: str) -> Trouble:
    """The trouble of an answer with another status than 2xx."""
    try:
        words = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        words = str(status)
    found = _CODE.search(text)
    code = found[1] if found and found[1] in _CODES else ""
    words += f", {code}" if code else ""
    advice = _CODES.get(code, "")
    if status == 404:
        return Nothing(words, advice or "check the address", _REFUSED)
    if status in (401, 403):
        return Trouble(words, advice or _CREDENTIALS, _REFUSED)
    passing = status in _AGAIN or code in ("RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable")
    return Trouble(words, advice or "check the store", Lasting.PASSING if passing else _REFUSED)
