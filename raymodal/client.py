"""`Client`: kept for programs that pass one on. There is one per process and nothing to configure."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from raymodal import _later
from raymodal._dual import dual, dual_function
from raymodal._later import later


class Client:
    """Stands for this process. Nothing reads it."""

    _closed = False

    def __init__(
        self,
        server_url: str,
        client_type: int,
        credentials: tuple[str, str] | None,
        version: str = "1.6.4",
        *,
        oauth_credentials: Any = None,
    ) -> None:
        self.server_url = server_url

    @classmethod
    def _of_process(cls) -> Client:
        global _process_client
        if _process_client is None:
            _process_client = cls("raymodal://local", 0, None)
        return _process_client

    @property
    def stub(self) -> Any:
        """Modal's wire protocol; there is none here."""
        _later.refuse("Client.stub", _later.INTERNAL)

    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @staticmethod
    async def _from_env(_override_config: Any = None) -> Client:
        """The client of this process; no credentials are needed."""
        return Client._of_process()

    from_env = dual_function(_from_env)

    @staticmethod
    async def _from_credentials(token_id: str, token_secret: str) -> Client:
        """The client of this process; the credentials are not looked at."""
        return Client._of_process()

    from_credentials = dual_function(_from_credentials)

    @dual
    async def close(self) -> None:
        """Nothing is open; kept for programs that close it."""
        self._closed = True

    @dual
    async def hello(self) -> None:
        """Modal's handshake; there is nobody to greet."""

    @dual
    async def __enter__(self) -> Client:
        return self

    @dual
    async def __exit__(self, exc_type: Any, exc: Any, tb: Any) -> None:
        self._closed = True

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, exc_type: Any, exc: Any, tb: Any) -> None:
        self._closed = True

    @later(_later.INTERNAL)
    def anonymous(server_url: str) -> AbstractContextManager[Client]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.INTERNAL)
    def from_oauth_credentials(  # type: ignore[empty-body]
        refresh_token: str,
        *,
        oauth_client_id: str,
        oauth_client_secret: str | None = None,
        oauth_jwt_key: str | None = None,
    ) -> Client:
        """Declared only."""

    @later(_later.INTERNAL)
    def get_input_plane_metadata(self, input_plane_region: str) -> list[tuple[str, str]]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.INTERNAL)
    def get_stub(self, server_url: str) -> Any:
        """Declared only."""

    @later(_later.INTERNAL)
    def verify(server_url: str, credentials: tuple[str, str]) -> None:
        """Declared only."""


_process_client: Client | None = None
