"""`Vault`: encrypts the values of secrets. The key is a file beside the database that only its owner can read.

AES-256 in GCM mode: what was changed, or moved to another place, does not decrypt. The key never leaves this room, and
errors carry neither it nor values.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from raymodal.exception import DataLossError, PermissionDeniedError

FILE = "secret.key"
_KEY_BYTES = 32
_NONCE_BYTES = 12


class Vault:
    """Seals and opens with one key.

    Attributes:
        key_id: tells keys apart; says nothing about the key.
    """

    def __init__(self, key: bytes, path: Path) -> None:
        self._cipher = AESGCM(key)
        self._path = path
        self.key_id = hashlib.sha256(b"raymodal key id\0" + key).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Vault({str(self._path)!r})"

    def seal(self, values: Mapping[str, str], place: str) -> bytes:
        """Encrypt.

        Args:
            values: variables.
            place: where they belong; `open` must be given the same.
        """
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, json.dumps(dict(values)).encode(), place.encode())

    def open(self, sealed: bytes, place: str) -> dict[str, str]:
        """Decrypt.

        Raises:
            DataLossError: it was made with another key, for another place, or is damaged.
        """
        try:
            data = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
        except (InvalidTag, ValueError):
            raise DataLossError(
                f"A secret cannot be decrypted with {self._path}: it is damaged, or another key made it. "
                "Put the right key file back, or create the secret again with --force."
            ) from None
        values: dict[str, str] = json.loads(data)
        return values


def load(home: Path) -> Vault | None:
    """The vault of a folder; None if it has no key yet.

    Raises:
        PermissionDeniedError: others can read the key file.
        DataLossError: it holds no key.
    """
    path = home / FILE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(file.fileno())
        if stat.S_IMODE(info.st_mode) & 0o077:
            raise PermissionDeniedError(
                f"{path} can be used by others (its mode is {stat.S_IMODE(info.st_mode):04o}), and so could every secret. "
                f"`chmod 600 {path}`; if others may have read it, create the secrets anew with other values."
            )
        if info.st_uid != os.geteuid() and os.geteuid() != 0:
            raise PermissionDeniedError(f"{path} belongs to another user. Set RAYMODAL_HOME to a folder of your own.")
        text = file.read(1024)
    try:
        key = base64.urlsafe_b64decode(text.strip())
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise DataLossError(
            f"{path} holds no key of raymodal. Put the right file back, or delete it together with the named secrets."
        )
    return Vault(key, path)


def make(home: Path) -> Vault:
    """A new key for a folder that has none. Only under the database's write lock, so that there is one maker at a time.

    The file appears whole or not at all.
    """
    path = home / FILE
    passing = home / f".{FILE}.{os.getpid()}-{secrets.token_hex(4)}"
    key = secrets.token_bytes(_KEY_BYTES)
    fd = os.open(passing, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(base64.urlsafe_b64encode(key) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(passing, path)
    except BaseException:
        passing.unlink(missing_ok=True)
        raise
    # On disk before a secret that needs it is.
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return Vault(key, path)
