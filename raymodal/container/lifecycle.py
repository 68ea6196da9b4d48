"""The one object of a class's container: how it is made, entered, called and left. No Ray here.

Its start has two phases, which may be run at different times and places: `load` and `make` import its class, construct it and run the hooks that belong before a
memory snapshot, `enter` runs the other hooks, once in every container. `leave` runs the exit hooks. All run on the container's main thread, async ones on its
one loop.
"""

from __future__ import annotations

import inspect
import traceback
import types
from collections.abc import Callable
from types import TracebackType
from typing import Any

from raymodal.container.context import Owner, adopt, here
from raymodal.container.loader import load_class
from raymodal.exception import ExecutionError
from raymodal.plan.cls import decode_arguments
from raymodal.plan.pool import ContainerPlan
from raymodal.spec.cls import HookSpec


class Lifecycle:
    """See the module's docstring.

    Args:
        run_async: runs a coroutine to its end on the container's loop.
        say: prints a line for the user.
    """

    def __init__(self, plan: ContainerPlan, run_async: Callable[[Any], Any], say: Callable[[str], None]) -> None:
        assert plan.cls is not None
        self._plan = plan
        self._cls = plan.cls
        self._run_async = run_async
        self._say = say
        self._user_cls: type = object
        self._instance: Any = None
        self._has_entered = False
        self._methods: dict[str, tuple[Callable[..., Any], bool]] = {}

    def move(self, plan: ContainerPlan) -> None:
        """Belong to this container from now on."""
        self._plan = plan

    def load(self) -> None:
        """Import or unpickle the class.

        Raises:
            BaseException: whatever user code raises on import.
        """
        self._user_cls = load_class(self._plan)

    def make(self) -> None:
        """Construct the object, run the hooks that come before a snapshot.

        Raises:
            BaseException: whatever user code raises.
        """
        request = self._plan.request
        args, kwargs = decode_arguments(request.arguments) if request is not None and request.arguments else ((), {})
        self._instance = construct(self._user_cls, args, kwargs, has_own_init=self._cls.has_own_init)
        context = here()
        if context is not None:
            adopt(self._instance, Owner(context.app, self._plan.app_id, self._plan.spec, request))
        for method in self._cls.methods:
            raw_f = find_decorated(self._user_cls, method.name)
            if raw_f is not None:
                self._methods[method.name] = (bind(raw_f, self._instance), method.is_async)
        self._run_hooks("enter", snap=True)

    def enter(self) -> None:
        """Second phase: the other enter hooks.

        Raises:
            BaseException: whatever user code raises.
        """
        self._run_hooks("enter", snap=False)
        self._has_entered = True

    def leave(self) -> None:
        """Run every exit hook, unless the object was never entered. One that raises is shown and keeps no other from running."""
        if not self._has_entered:
            return
        self._has_entered = False
        for hook in self._hooks("exit", snap=False):
            try:
                self._run(hook)
            except BaseException as error:  # noqa: BLE001 - the container ends in any case
                trace = "".join(traceback.format_exception(error.with_traceback(_of_user(error.__traceback__))))
                self._say(f"The exit hook {hook.name!r} of {self._plan.spec.tag!r} raised:\n{trace}")

    def method(self, name: str) -> tuple[Callable[..., Any], bool]:
        """The object's method, and whether it is async."""
        found = self._methods.get(name)
        return found if found is not None else (self._missing(name), False)

    def _missing(self, name: str) -> Callable[..., Any]:
        def fail(*args: Any, **kwargs: Any) -> Any:
            raise ExecutionError(
                f"Class {self._cls.tag!r} has no method {name!r} in the container, although it had where the app was defined. "
                "Is it defined under an `if`? Define it always, or use serialized=True."
            )

        return fail

    def _run_hooks(self, kind: str, *, snap: bool) -> None:
        for hook in self._hooks(kind, snap=snap):
            self._run(hook)

    def _hooks(self, kind: str, *, snap: bool) -> list[HookSpec]:
        return [hook for hook in self._cls.hooks if hook.kind == kind and hook.snap == snap]

    def _run(self, hook: HookSpec) -> None:
        raw_f = getattr(self._user_cls, hook.name) if hook.is_dunder else find_decorated(self._user_cls, hook.name)
        if raw_f is None:
            self._missing(hook.name)()
        bound = bind(raw_f, self._instance)
        # A hook in the form of a context manager's: there is never an exception to tell it of.
        nothing = (None,) * 3 if hook.kind == "exit" and takes_arguments(bound) else ()
        result = bound(*nothing)
        if inspect.isawaitable(result):
            self._run_async(result)


def _of_user(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of this file."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def construct(user_cls: type, args: tuple[Any, ...], kwargs: dict[str, Any], *, has_own_init: bool) -> Any:
    """An object of the user's class. Without a constructor of its own, arguments are parameters and become attributes."""
    if has_own_init:
        return user_cls(*args, **kwargs)
    new: Any = user_cls.__new__
    instance = new(user_cls)
    if kwargs:
        vars(instance).update(kwargs)
    return instance


def find_decorated(user_cls: type, name: str) -> Any:
    """The user's function beneath the last decorated definition of `name`: one without a decorator does not hide it."""
    found = None
    for klass in reversed(user_cls.__mro__):
        raw_f = getattr(vars(klass).get(name), "raw_f", None)
        if raw_f is not None:
            found = raw_f
    return found


def bind(raw_f: Any, instance: Any) -> Callable[..., Any]:
    """The method of one object, as attribute access would give it."""
    get = getattr(raw_f, "__get__", None)
    bound: Callable[..., Any] = get(instance, type(instance)) if get is not None else types.MethodType(raw_f, instance)
    return bound


def takes_arguments(bound: Callable[..., Any]) -> bool:
    """Whether a bound method has parameters besides its object."""
    return len(inspect.signature(bound).parameters) > 0
