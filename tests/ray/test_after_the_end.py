"""A process that has left its cluster."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import raymodal as modal
from raymodal import config
from raymodal.engine import current
from raymodal.engine.protocol import Gone

pytestmark = [pytest.mark.ray, pytest.mark.timeout(90)]


def test_after_the_end_nothing_joins_another_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a thread still has to say to the controller while, or after, Ray is shut down: Ray itself would connect to any cluster of this machine."""
    import ray
    from ray._private import auto_init_hook

    config.reset()
    config.override(engine="ray", address="local")
    app = modal.App("late")
    app.function(serialized=True)(abs_of)
    joins: list[str] = []
    try:
        engine = current.get_engine()
        with app.run():
            link = engine._apps[app.app_id].client.link
        shutdown = ray.shutdown

        def shut_down() -> None:
            shutdown()
            monkeypatch.setattr(ray, "init", lambda *_, **__: joins.append("init"))
            auto_init_hook.auto_init_ray()

        monkeypatch.setattr(ray, "shutdown", shut_down)
    finally:
        current.shutdown()
        config.reset()

    link.tell("lost", "ta-1", "it is late")
    with pytest.raises(Gone):
        asyncio.run(link._call("poll", ()))
    replies: list[Any] = []
    link.submit(object(), "run", (), replies.append)

    assert [type(reply) for reply in replies] == [Gone]
    assert joins == []
    assert not ray.is_initialized()


def abs_of(x: int) -> int:
    return abs(x)
