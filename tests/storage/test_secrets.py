"""No message, log or notice holds credentials, a query, or what a server says."""

from __future__ import annotations

import logging
import traceback

import pytest

from silc.storage import Board, Range, StoreFailed, check_address, list_tars, open_store, put, read_whole, shorten, stat
from silc.storage.troubles import trouble_of
from tests.storage.servers import SHORT, Answer, Faults, Server

SECRETS = ["AKIAVERYSECRETID", "verySecretKey/+99", "tokenOfTheSession=="]


class Talkative(Server):
    """Says what it was asked, with all headers, in errors of all kinds."""

    status = 403

    def answer(self, method, path, headers, body):
        text = f"<Error><Code>{SECRETS[0]}</Code>{path} {dict(headers)} {SECRETS}</Error>".encode()
        return Answer(self.status, {"Content-Length": str(len(text)), "x-amz-echo": SECRETS[1]}, text)


@pytest.fixture
def secret_environment(s3, monkeypatch):
    for name, value in zip(("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"), SECRETS, strict=True):
        monkeypatch.setenv(f"AWS_{name}", value)


def clean(text: str) -> str:
    for secret in [*SECRETS, "Signature=", "Authorization", "authorization", "x-amz", "?list-type"]:
        assert secret not in text
    return text


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 412, 416, 500, 503, 599])
@pytest.mark.usefixtures("secret_environment")
def test_nothing_of_an_answer_is_passed_on(monkeypatch, caplog, capfd, status):
    caplog.set_level(logging.DEBUG)
    board = Board(1)
    with Talkative() as server:
        server.status = status
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        store = open_store(patience=0.2, limits=SHORT, board=board)
        calls = [
            lambda: store.read([Range("s3://bucket/x.tar", 0, 10)]),
            lambda: read_whole("s3://bucket/x.tar", 10, patience=0.2, limits=SHORT),
            lambda: list_tars("s3://bucket/folder", patience=0.2, limits=SHORT),
            lambda: put("s3://bucket/x.tar", b"x", patience=0.2, limits=SHORT),
            lambda: stat("s3://bucket/x.tar", patience=0.2, limits=SHORT),
        ]
        messages = []
        for call in calls:
            try:
                call()
            except (StoreFailed, ValueError) as error:
                messages.append(clean("".join(traceback.format_exception(error)) + repr(error) + str(error)))
                seen: BaseException | None = error
                while seen is not None:  # also what a traceback would not show
                    clean(repr(seen))
                    seen = seen.__cause__ or seen.__context__
        assert "s3://bucket/x.tar" in messages[0]
        assert server.counts["GET"] > 0
    clean(caplog.text + "".join(capfd.readouterr()) + repr(board.waiting()))


@pytest.mark.usefixtures("secret_environment")
@pytest.mark.parametrize("variable", ["AWS_SKIP_SIGNATURE", "AWS_S3_EXPRESS", "AWS_ENDPOINT_URL"])
def test_nor_is_a_setting(monkeypatch, variable):
    monkeypatch.setenv(variable, f"http://{SECRETS[1]} {SECRETS[0]}")
    with pytest.raises((ValueError, StoreFailed)) as caught:
        open_store(patience=0.1, limits=SHORT).read([Range("s3://bucket/x.tar", 0, 10)])
    clean("".join(traceback.format_exception(caught.value)) + repr(caught.value.__context__))


@pytest.mark.parametrize(
    "address",
    [
        f"https://me:{SECRETS[2]}@host/x.tar",
        f"https://{SECRETS[0]}@host/x.tar",
        f"s3://{SECRETS[0]}:{SECRETS[1]}@bucket/x.tar",
        f"https://host/x.tar?X-Amz-Credential={SECRETS[0]}&X-Amz-Signature={SECRETS[2]}",
        f"https://host/x.tar#{SECRETS[0]}",
        f"ftp://me:{SECRETS[1]}@host/x.tar",
        f"abfs://a:{SECRETS[0]}@b/x.tar",
    ],
)
def test_nor_is_what_an_address_should_not_hold(address):
    with pytest.raises(ValueError, match=r"data\.shards: ") as caught:
        check_address(address, "data.shards")
    clean(str(caught.value))
    clean(shorten(address))
    for call in (stat, list_tars, lambda x: put(x, b""), lambda x: open_store().read([Range(x, 0, 1)])):
        with pytest.raises(ValueError, match=r"holds a|unknown scheme") as caught:
            call(address)
        clean(str(caught.value))


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, OSError])
def test_nor_is_an_error_that_nobody_knows(kind):
    trouble = trouble_of(kind(f"Generic error: {SECRETS} Signature={SECRETS[2]}"))
    assert trouble.words == kind.__name__
    clean(f"{trouble!r} {trouble.advice}")


def test_the_usual_faults_are_told_from_their_codes(faulty_s3):
    put(faulty_s3.address("x"), b"x")
    faulty_s3.server.faults = Faults(error=1.0)
    with pytest.raises(StoreFailed, match="last: 503 Service Unavailable, SlowDown"):
        open_store(patience=0.1, limits=SHORT).read([Range(faulty_s3.address("x"), 0, 1)])
