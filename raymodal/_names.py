"""Which names and tags are allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping

from raymodal.exception import InvalidError

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_APP_ID = re.compile(r"ap-[A-Za-z0-9]{22}")
_TAG = re.compile(r"[A-Za-z0-9._-]{1,63}")
_DEPLOYMENT_TAG = re.compile(r"[A-Za-z0-9._-]{1,50}")


def check_name(kind: str, name: str) -> None:
    """Refuse names that an App, Volume, Dict, Queue or Image cannot have.

    Raises:
        InvalidError: too long, other characters than letters, digits, `-`, `_`, `.`, or the look of an app id.
    """
    if not _NAME.fullmatch(name) or _APP_ID.fullmatch(name):
        raise InvalidError(
            f"{name!r} cannot name a {kind}: use at most 64 letters, digits, dashes, underscores and periods, and not the form of an app id"
        )


def check_tags(tags: Mapping[str, str]) -> None:
    """Refuse tags that are not pairs of short plain words.

    Raises:
        InvalidError: a key or value with other characters, or above 63 of them.
    """
    for key, value in tags.items():
        for part, what in ((key, "key"), (value, "value")):
            if not _TAG.fullmatch(part):
                raise InvalidError(
                    f"The tag {what} {part!r} is not allowed: use 1 to 63 letters, digits, dashes, underscores and periods"
                )


def check_deployment_tag(tag: str) -> None:
    """Refuse a bad `deploy(tag=)`.

    Raises:
        InvalidError: too long, or other characters than letters, digits, `-`, `_`, `.`.
    """
    if tag and not _DEPLOYMENT_TAG.fullmatch(tag):
        raise InvalidError(
            f"tag={tag!r} is not allowed: use at most 50 letters, digits, dashes, underscores and periods"
        )
