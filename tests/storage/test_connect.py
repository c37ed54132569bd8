"""Whose credentials are sent where: seen by a server that writes down what it is asked."""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
import types
from urllib.parse import unquote

import pytest

from silc.storage import Range, StoreFailed, connect, open_store
from silc.storage.aws_files import BadSettings, read_settings
from tests.storage.servers import SHORT, Answer, Server

READ = Range("s3://bucket/a/x y.tar", 3, 8)
KEYS = "aws_access_key_id = {}\naws_secret_access_key = s%(3cr3t\n"


class Recorder(Server):
    """Answers every range with "0123456789", and keeps (path, headers)."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, dict[str, str]]] = []

    def answer(self, method, path, headers, body):
        self.requests.append((path, {name.lower(): value for name, value in headers.items()}))
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("Range", ""))
        data = b"0123456789"[int(found[1]) : int(found[2]) + 1]
        told = {"Content-Length": str(len(data)), "Content-Range": f"bytes {found[1]}-{found[2]}/10", "ETag": '"x"'}
        return Answer(206, told | {"Last-Modified": "Wed, 25 Nov 2026 00:00:00 GMT"}, data)

    @property
    def signer(self) -> str:
        """access key/region of the last request."""
        found = re.search(r"Credential=([^/]*)/\d+/([^/]*)/", self.requests[-1][1].get("authorization", ""))
        return f"{found[1]}/{found[2]}" if found else "nobody"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A Recorder; the environment names no store, and ~ is tmp_path."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    with Recorder() as recorder:
        yield recorder


def read(wanted: Range = READ) -> None:
    assert open_store(patience=5, limits=SHORT).read([wanted]) == [b"34567"]


def test_the_environment_goes_before_the_files(server, tmp_path, monkeypatch):
    (tmp_path / ".aws/credentials").write_text(f"[default]\n{KEYS.format('FILE')}[other]\n{KEYS.format('OTHER')}")
    (tmp_path / ".aws/config").write_text(
        f"[default]\nregion = eu-west-3\nendpoint_url = {server.url}/\n[profile other]\nregion=us-west-2\n"
    )
    read()
    assert server.signer == "FILE/eu-west-3"
    assert server.requests[-1][0] == "/bucket/a/x%20y.tar"
    assert server.requests[-1][1]["range"] == "bytes=3-7"
    monkeypatch.setenv("AWS_REGION", "ap-south-1")
    read()
    assert server.signer == "FILE/ap-south-1"
    monkeypatch.setenv("AWS_PROFILE", "other")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.delenv("AWS_REGION")
    read()
    assert server.signer == "OTHER/us-west-2"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    read()
    assert server.signer == "ENVIRONMENT/us-west-2"
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    read()
    assert server.signer == "nobody"


def test_session_tokens_and_other_places_of_the_files(server, tmp_path, monkeypatch):
    (tmp_path / "c").write_text(f"[default]\n{KEYS.format('FILE')}aws_session_token = token\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "c"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    read()
    assert server.signer == "FILE/us-east-1"
    assert server.requests[-1][1]["x-amz-security-token"] == "token"


def test_without_credentials_it_is_said_where_they_were_looked_for(server, monkeypatch):
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", server.url)  # of a machine that hands out none
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    server.faults.error, server.faults.methods, server.faults.statuses = 1.0, ("PUT", "GET"), (404,)
    with pytest.raises(StoreFailed, match=r"no credentials were found.*AWS_SKIP_SIGNATURE=true") as caught:
        read()
    assert "4 tries" in str(caught.value)


def test_web_servers_get_no_credentials(server, tmp_path, monkeypatch):
    (tmp_path / ".aws/credentials").write_text(f"[default]\n{KEYS.format('FILE')}")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1\nlogin me\npassword secret\n")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    read(Range(f"{server.url}/bucket/x.tar", 3, 8))
    assert set(server.requests[-1][1]) <= {"host", "range", "accept", "user-agent"}


def test_google_and_azure(server, monkeypatch):
    monkeypatch.setenv("GOOGLE_BASE_URL", server.url)
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    for scheme in ("gs", "gcs"):
        read(Range(f"{scheme}://bucket/a/x.tar", 3, 8))
        assert unquote(server.requests[-1][0]) == "/bucket/a/x.tar"
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_ENDPOINT", server.url)
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    for container in ("az://box", "azure://box", "abfs://box@account.dfs.core.windows.net", "abfss://box"):
        read(Range(f"{container}/a/x.tar", 3, 8))
        assert server.requests[-1][0].endswith("/box/a/x.tar")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9000"}, r"^AWS_ENDPOINT_URL is no address of a server; write https://host"),
        ({"AWS_ENDPOINT_URL": "http://me:pw@h"}, r"^AWS_ENDPOINT_URL is no address of a server; write https://host"),
        ({"AWS_SKIP_SIGNATURE": "perhaps"}, r"^s3://bucket cannot be set up: GenericError; check the variables AWS_\*"),
        ({"AWS_PROFILE": "nobody"}, r"^AWS_PROFILE=nobody: neither ~/.aws/credentials nor ~/.aws/config has that"),
        ({"AWS_CA_BUNDLE": "/nowhere"}, r"^AWS_CA_BUNDLE=/nowhere cannot be read \(FileNotFoundError\)"),
    ],
)
@pytest.mark.usefixtures("server")
def test_wrong_settings_are_named_at_once(monkeypatch, variables, words):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=words):
        read()


@pytest.mark.usefixtures("server")
def test_encryption_is_not_left_out_unasked(monkeypatch):
    """An endpoint with https is never spoken to without: here the server does not even know TLS."""
    with Recorder() as plain:
        monkeypatch.setenv("AWS_ENDPOINT_URL", plain.url.replace("http://", "https://"))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        with pytest.raises(StoreFailed, match=r"could not be read for \d s"):
            open_store(patience=0.3, limits=SHORT).read([READ])
        assert plain.requests == []
    assert "allow_http" not in connect._client(SHORT, plain=False)  # nor after a redirection


@pytest.mark.parametrize(
    "text",
    [
        "aws_secret_access_key = verySecret\n",
        "[default]\nverySecret\n",
        "[default\nverySecret]",
        b"[default]\nkey = verySecret\xff",
        b"\0verySecret" * (1 << 18),
    ],
)
def test_damaged_files_are_named_without_their_lines(server, tmp_path, text):
    file = tmp_path / ".aws/credentials"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(
        ValueError, match=r"\.aws/credentials cannot be read as a file of AWS settings \(\w+\)"
    ) as caught:
        read()
    seen: BaseException | None = caught.value
    while seen is not None:
        assert "verySecret" not in repr(seen)
        seen = seen.__cause__ or seen.__context__


@pytest.mark.parametrize(
    "line", ["role_arn = arn:x\nsource_profile = y", "sso_session = z", "credential_process = /bin/x"]
)
def test_other_kinds_of_credentials_need_boto3(server, tmp_path, monkeypatch, line):
    (tmp_path / ".aws/config").write_text(f"[profile p]\n{line}\nregion = eu-west-1\n")
    monkeypatch.setenv("AWS_PROFILE", "p")
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "boto3" else name)
    with pytest.raises(BadSettings, match=r"profile p of ~/\.aws has \w+, which needs the package boto3"):
        read_settings({"AWS_PROFILE": "p"})

    # A stand-in for obstore.auth.boto3, which asks boto3.
    module = types.ModuleType("obstore.auth.boto3")
    module.Boto3CredentialProvider = lambda: lambda: {
        "access_key_id": "BOTO", "secret_access_key": "s", "token": None, "expires_at": None
    }  # fmt: skip
    monkeypatch.setitem(sys.modules, "obstore.auth.boto3", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    read()
    assert server.signer == "BOTO/eu-west-1"


def test_settings_of_the_files_alone(tmp_path):
    environment = {"AWS_CONFIG_FILE": str(tmp_path / "c"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}
    assert read_settings(environment) == ({}, None, False)
    (tmp_path / "c").write_text("[default]\naws_access_key_id=a\naws_secret_access_key=b%s\nregion=r\nendpoint_url=u\n")
    options, keys = {"region": "r", "endpoint": "u"}, {"access_key_id": "a", "secret_access_key": "b%s"}
    assert read_settings(environment) == (options, keys, False)
    for variable in ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        assert read_settings(environment | {variable: "x"}) == (options, None, False)
    assert read_settings(environment | {"AWS_DEFAULT_REGION": "x", "AWS_ENDPOINT": "y"}) == ({}, keys, False)


def test_keys_that_were_renewed_are_read_again(server, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setattr(connect, "KEYS_LAST", 1.0)
    store, deadline = open_store(patience=1, limits=SHORT), time.monotonic() + 30

    def read_on() -> None:
        while time.monotonic() < deadline:
            store.read([READ])

    for name in ("FIRST", "SECOND"):
        (tmp_path / ".aws/credentials").write_text(f"[default]\n{KEYS.format(name)}")
        assert store.read([READ]) == [b"34567"]
        while server.signer != f"{name}/us-east-1" and time.monotonic() < deadline:
            time.sleep(0.05)
            store.read([READ])
        assert server.signer == f"{name}/us-east-1"
    (tmp_path / ".aws/credentials").write_text("[default\nverySecret]")
    time.sleep(0.2)
    with pytest.raises(StoreFailed, match="could not be read") as caught:
        read_on()
    assert "verySecret" not in "".join(traceback.format_exception(caught.value))
