"""The usual files of S3's credentials and settings: `~/.aws/credentials` and `~/.aws/config`.

The environment is read by obstore itself and goes before the files, as with Amazon's own tools: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL, AWS_SKIP_SIGNATURE and others. AWS_PROFILE names
the section of the files that holds, AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE their places.
"""

from __future__ import annotations

import configparser
import importlib.util
import os
from collections.abc import Mapping
from typing import NamedTuple

from silc.files import check_regular

MAX_FILE = 1 << 20  # bytes
_KEYS = {
    "access_key_id": "aws_access_key_id",
    "secret_access_key": "aws_secret_access_key",
    "token": "aws_session_token",
}
_OWN_KEYS = (  # of the environment: with one of these the keys of the files are not used
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_BY_BOTO = (
    "role_arn",
    "sso_session",
    "sso_start_url",
    "credential_process",
    "source_profile",
    "web_identity_token_file",
)


class BadSettings(ValueError):
    """A mistake in the files; the message holds no value of them."""


class Settings(NamedTuple):
    """What the files say.

    options: for obstore's S3Store; keys: access_key_id, secret_access_key and perhaps token; by_boto: whether boto3 has
    to be asked for them.
    """

    options: dict[str, str]
    keys: dict[str, str] | None = None
    by_boto: bool = False


def read_settings(environ: Mapping[str, str]) -> Settings:
    """What the files say and the environment does not.

    Raises:
        BadSettings: a file that cannot be understood, a profile that is in none, or one whose credentials need boto3
            while it is not installed.
    """
    name = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or "default"
    credentials = _parse(environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")
    config = _parse(environ.get("AWS_CONFIG_FILE") or "~/.aws/config")
    keys = _section(credentials, name)
    rest = _section(config, name if name == "default" else f"profile {name}")
    if keys is None and rest is None:
        if name != "default":
            raise BadSettings(f"AWS_PROFILE={name[:60]}: neither ~/.aws/credentials nor ~/.aws/config has that profile")
        return Settings({})
    profile = {**(rest or {}), **(keys or {})}
    options = {}
    if "region" in profile and not (environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")):
        options["region"] = profile["region"]
    endpoints = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    if "endpoint_url" in profile and not any(environ.get(variable) for variable in endpoints):
        options["endpoint"] = profile["endpoint_url"]
    if any(environ.get(variable) for variable in _OWN_KEYS) or _is_true(environ.get("AWS_SKIP_SIGNATURE", "")):
        return Settings(options)
    if profile.get("aws_access_key_id") and profile.get("aws_secret_access_key"):
        return Settings(options, {name: profile[key] for name, key in _KEYS.items() if profile.get(key)})
    wanted = [key for key in _BY_BOTO if key in profile]
    if wanted and importlib.util.find_spec("boto3") is None:
        raise BadSettings(
            f"profile {name[:60]} of ~/.aws has {wanted[0]}, which needs the package boto3 (pip install boto3); or "
            "export the keys: aws configure export-credentials --format env"
        )
    return Settings(options, by_boto=bool(wanted))


def _parse(path: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)  # Raw: a percent sign in a key means itself
    file = os.path.expanduser(path)
    try:
        check_regular(file, MAX_FILE)
        with open(file, encoding="utf-8") as text:
            parser.read_string(text.read())
    except FileNotFoundError:
        return parser
    except (OSError, ValueError, configparser.Error) as error:
        wrong = type(error).__name__  # its text may be a line of the file
    else:
        return parser
    raise BadSettings(f"{file} cannot be read as a file of AWS settings ({wrong}); mend it, or use the environment")


def _section(parser: configparser.RawConfigParser, name: str) -> dict[str, str] | None:
    return dict(parser.items(name)) if parser.has_section(name) else None


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("1", "true", "on", "yes", "y")
