"""`interact`: a terminal inside a running function. Comes with a later milestone."""

from __future__ import annotations

from raymodal import _later
from raymodal._dual import dual_function
from raymodal.container.context import here
from raymodal.exception import InvalidError


async def _interact() -> None:
    """Give the terminal of `raymodal run -i` to this container.

    Raises:
        InvalidError: outside of a container.
    """
    if here() is None:
        raise InvalidError("modal.interact() works in a container only")
    _later.refuse("modal.interact", _later.INTERACTIVE)


interact = dual_function(_interact)
