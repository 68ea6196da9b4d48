"""The controller: the shell around `logic.fleet`. It owns an app's pools and its spawned calls. Async, on one loop, no Ray here.

Every public coroutine is called by callers and containers; each ends with `_step`, which lets the fleet act and carries its commands out. Payloads of
`remote` and `map` never come here; those of spawned calls do, and stay encoded.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from raymodal import wire
from raymodal.engine.client import AppClient
from raymodal.engine.protocol import NOT_YET, Gone, Host, OnDone
from raymodal.engine.run import AsyncInbox, Encoded, Run, new_call_id, take_events_async
from raymodal.exception import ClientClosed, InvalidError, NotFoundError, ResourceExhaustedError
from raymodal.logic import pools as fl
from raymodal.logic.autoscale import DEFAULT_SCALEDOWN_S, Ask, Rules
from raymodal.logic.fleet import Fleet
from raymodal.logic.pools import Pool, Status
from raymodal.logic.predict import POLICIES
from raymodal.logic.why import explain, have, wishes
from raymodal.plan.pool import ClientOptions, ContainerPlan, FunctionFacts, PoolRequest, lanes_of
from raymodal.spec.function import FunctionSpec, spec_env
from raymodal.wire import Failure

POLL_S = 3.0  # a caller's long-poll; its return is the heartbeat
CONTAINER_POLL_S = 10.0
SILENT_S = 25.0  # a container that has not polled for this long is asked whether it lives
STALLED_S = 5.0  # a container that the cluster has not begun with waits for room
DRAIN_S = 30.0
EXIT_GRACE_S = 30.0  # what exit hooks may take when the app stops; as long as in Modal
STOP_S = 5.0  # and containers without any
MAX_START_FAILURES = 3
SILENT_TEXT = "its caller was not heard of for too long"  # if that lives after all, it sends the input again
OWN_CLIENT_ID = "controller"  # as a caller of its own app


def rules_of(spec: FunctionSpec) -> Rules:
    """The autoscaler's view of a spec."""
    lanes = lanes_of(spec)
    batch = 1 if spec.batching is None else spec.batching.max_batch_size
    return Rules(
        min_containers=spec.min_containers or 0,
        max_containers=spec.max_containers or None,
        buffer_containers=spec.buffer_containers or 0,
        scaledown_window=DEFAULT_SCALEDOWN_S if spec.scaledown_window is None else float(spec.scaledown_window),
        target_inputs=max(1, min(spec.target_concurrent_inputs or lanes, lanes)) * batch,
    )


def policy_of(spec: FunctionSpec, default: str) -> str:
    """The name of a function's scaling policy: its own (`experimental_options={"autoscaler": ...}`), or the setting.

    Raises:
        InvalidError: there is none of that name.
    """
    name = spec.experimental_options.get("autoscaler", default)
    if name not in POLICIES:
        raise InvalidError(
            f"Function {spec.tag!r}: no scaling policy is named {name!r}; there are {' and '.join(map(repr, POLICIES))}"
        )
    return name


@dataclass(slots=True)
class PoolSetup:
    """One function as the controller is told of it."""

    plan: ContainerPlan
    facts: FunctionFacts
    ask: Ask
    rules: Rules
    policy: str = "fixed"  # one of `logic.predict.POLICIES`

    @property
    def is_template(self) -> bool:
        """It has no containers itself: they belong to the pools of its objects."""
        return self.plan.cls is not None and self.plan.request is None and self.plan.cls.is_template

    def pool(self) -> Pool:
        at_once = self.facts.lanes * self.facts.batch.max_batch_size if self.facts.batch else self.rules.target_inputs
        runs = at_once if at_once < self.facts.slots else None
        pool = Pool(
            self.facts.tag, self.rules, self.ask, slots=self.facts.slots, runs=runs, max_starts=MAX_START_FAILURES
        )
        if self.policy == "hybrid":
            pool.foresee()
        return pool


@dataclass(slots=True)
class _Caller:
    events: deque[Any] = field(default_factory=deque)
    flag: asyncio.Event = field(default_factory=asyncio.Event)
    seqs: dict[str, int] = field(default_factory=dict)

    def tell(self, *event: Any) -> None:
        self.events.append(event)
        self.flag.set()


@dataclass(slots=True)
class _Live:
    """A container's process, as opposed to its record in the fleet."""

    handle: Any
    tag: str
    asked_at: float
    commands: deque[Any] = field(default_factory=deque)
    flag: asyncio.Event = field(default_factory=asyncio.Event)
    polled_at: float = 0.0
    why: str = ""
    shared: Any = None

    def command(self, *command: Any) -> None:
        self.commands.append(command)
        self.flag.set()


@dataclass(slots=True)
class _SpawnedCall:
    call_id: str
    tag: str
    inbox: AsyncInbox
    run: Run
    outcomes: dict[int, Any] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[Any] | None = None
    complete: bool = False  # no more inputs will be added
    cancelled: bool = False
    parent: str | None = None

    def notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class ControllerService:
    """See the module's docstring.

    Args:
        setups: every function of the app.
        host: keeps containers.
        options: of the controller as a caller, for spawned calls.
        lease_ttl_s: a caller not heard of for this long is dead.
    """

    def __init__(
        self,
        app_id: str,
        setups: list[PoolSetup],
        host: Host,
        *,
        options: ClientOptions,
        lease_ttl_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app_id = app_id
        self._setups = {s.facts.tag: s for s in setups}
        self._host = host
        self._now = clock
        self._fleet = Fleet(
            [s.pool() for s in setups if not s.is_template],
            _container_id,
            lease_ttl_s,
            own_client_id=OWN_CLIENT_ID,
        )
        self._callers: dict[str, _Caller] = {}
        self._live: dict[str, _Live] = {}
        self._calls: dict[str, _SpawnedCall] = {}
        self._open_inputs: Counter[str] = Counter()  # spawned, without an outcome, by function
        self._limits = options.limits
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._room_at = -1e9
        self._counts: dict[str, tuple[int, int]] = {}
        self._notes: list[tuple[Any, ...]] = []
        self._warned: set[str] = set()
        self._stopped = False
        self.calls_handled = 0
        self._driver: str | None = None
        link = _Loopback(self)
        self._client = AppClient(
            link,
            {tag: s.facts for tag, s in self._setups.items()},
            options,
            app_id=app_id,
            loop=asyncio.get_running_loop(),
        )

    # --- life

    async def start(self) -> dict[str, Any]:
        """Begin: look at the room, start minimum containers."""
        await self._look_at_room(force=True)
        self._spawn(self._watch_silent())
        self._step()
        return {"app_id": self.app_id}

    async def stop(self, calls_s: float = 0.0, stop_s: float = STOP_S) -> list[str]:
        """End every call and container.

        Args:
            calls_s: what spawned calls that still run may take.
            stop_s: what containers without exit hooks may take; the others have `EXIT_GRACE_S`.

        Returns:
            The containers that had begun, which are those that may have printed something.
        """
        if self._stopped:
            return []
        running = [call.task for call in self._calls.values() if call.task is not None and not call.task.done()]
        if running and calls_s > 0:
            await asyncio.wait(running, timeout=calls_s)
        if self._stopped:
            return []
        self._stopped = True
        self._fleet.stopping = True
        if self._timer is not None:
            self._timer.cancel()
        for call in self._calls.values():
            if call.task is not None:
                call.task.cancel()
        for caller in self._callers.values():
            caller.tell("stopped", "the app was stopped")
        ending: dict[str, asyncio.Task[Any]] = {}
        for container_id, process in list(self._live.items()):
            container = self._fleet.containers.get(container_id)
            if container is not None and container.status is Status.STARTING:
                # It has run no input, and its enter hooks are not through: there is nothing to end in good order.
                self._host.kill(process.handle)
                continue
            # Also if it seems idle: what its caller has just given up may still run there.
            process.command("cancel_all", "the app stops", wire.CANCELLED)
            grace_s = EXIT_GRACE_S if self._has_exit_hooks(process.tag) else stop_s
            ending[container_id] = self._spawn(self._finish(container_id, process, "the app stops", grace_s))
        if ending:
            await asyncio.wait(ending.values(), timeout=EXIT_GRACE_S + 1.0)
        await self._client.close()
        for task in list(self._tasks):
            task.cancel()
        return list(ending)

    # --- callers

    async def open_pool(self, request: PoolRequest) -> None:
        """Know the pool of a class's object from now on. The first of its callers makes it; later ones change nothing."""
        if request.tag in self._setups:
            return
        base = self._setups[request.base]
        spec = request.spec(base.plan.spec)
        opened = self._host.open_pool(spec)
        plan = replace(base.plan, spec=spec, env=spec_env(spec), hide_gpus=opened.hide_gpus, request=request)
        setup = PoolSetup(plan, request.facts(base.facts), opened.ask, rules_of(spec), base.policy)
        self._setups[request.tag] = setup
        self._client.learn(setup.facts)
        self._fleet.add(setup.pool())
        if opened.note is not None:
            self._note(f"placement:{request.tag}", opened.note)
        self._step()

    async def update(
        self, client_id: str, container_id: str | None, tag: str, seq: int, demand: int, lasting: int, releases: Any
    ) -> list[Any]:
        """A caller's demand on a function, and leases it gives back. Returns what is waiting for it, new grants included."""
        self.calls_handled += 1
        now = self._now()
        caller = self._caller(client_id, container_id, now)
        for lease_id, idle_s, used_up in releases:
            self._fleet.released(client_id, lease_id, idle_s, now, used_up=used_up)
        if seq > caller.seqs.get(tag, 0):
            # Reports of one process may overtake each other.
            caller.seqs[tag] = seq
            self._fleet.set_demand(client_id, tag, demand, now, lasting)
        if demand:
            self._refresh_room()
        self._step()
        return self._take(caller)

    async def poll(self, client_id: str, container_id: str | None) -> list[Any]:
        """Wait for events for a caller; an empty answer after a few seconds keeps its leases alive."""
        self.calls_handled += 1
        caller = self._caller(client_id, container_id, self._now())
        if not caller.events:
            caller.flag.clear()
            try:
                async with asyncio.timeout(POLL_S):
                    await caller.flag.wait()
            except TimeoutError:
                pass
            self._fleet.client_seen(client_id, self._now(), container_id)
        if self._fleet.is_due:
            self._step()  # it was given up, and lives: what it wanted, it wants still
        return self._take(caller)

    async def cancel(self, container_id: str, sender: str, bundle_id: int) -> None:
        """A caller gives a bundle up."""
        process = self._live.get(container_id)
        if process is not None:
            process.command("cancel", sender, bundle_id)

    async def lost(self, container_id: str, why: str) -> None:
        """A caller saw a container end. If it lives after all, it has failed to answer, and nobody is to have it again."""
        process = self._live.get(container_id)
        if process is None:
            return
        if await self._host.is_alive(process.handle):
            await self.retire(container_id, why)
        else:
            self._gone(container_id, why)

    async def kill(self, container_id: str, why: str) -> None:
        """A container must end now: it runs something that cannot be interrupted."""
        process = self._live.get(container_id)
        if process is not None:
            self._host.kill(process.handle)
            self._gone(container_id, why)

    async def retire(self, container_id: str, reason: str, is_quiet: bool = True) -> None:
        """A container takes no more. What it runs goes on to its end; `is_quiet` once nothing of that is left."""
        self._run_commands(self._fleet.retire(container_id, reason, self._now(), is_quiet=is_quiet))
        self._step()
        process = self._live.get(container_id)
        if not is_quiet and process is not None:
            # Whoever was to fetch the rest may be gone.
            after_s = DRAIN_S + self._setups[process.tag].plan.spec.timeout_s
            asyncio.get_running_loop().call_later(
                after_s, lambda: self._stopped or self._spawn(self.retire(container_id, reason))
            )

    # --- containers

    async def container_poll(self, container_id: str) -> list[Any]:
        """Wait for commands for a container."""
        process = self._live.get(container_id)
        if process is None:
            return [("exit",)]  # it was given up
        process.polled_at = self._now()
        if not process.commands:
            process.flag.clear()
            try:
                async with asyncio.timeout(CONTAINER_POLL_S):
                    await process.flag.wait()
            except TimeoutError:
                pass
        process.polled_at = self._now()
        commands = list(process.commands)
        process.commands.clear()
        return commands

    async def sealed(
        self, sender: str, bundle_id: int, epoch: int, current: int, box: Any, untouched: tuple[int, int]
    ) -> None:
        """What a container took out of a bundle whose input overruns, on its way to the bundle's holder."""
        caller = self._callers.get(sender)
        if sender == self._client.link.client_id:
            self._client.handle([("sealed", bundle_id, epoch, current, box, untouched)])
        elif caller is not None:
            caller.tell("sealed", bundle_id, epoch, current, box, untouched)

    # --- spawned calls

    async def spawn(self, tag: str, items: list[tuple[str, bytes, list[Any]]], complete: bool, method: str) -> str:
        """Accept inputs as a new call; it runs whether or not anybody asks for its outcome.

        Raises:
            ResourceExhaustedError: too many wait already. None of these was accepted.
        """
        self._check_room(tag, len(items))
        call = self._new_call(tag, method)
        self._add(call, items, complete)
        return call.call_id

    async def spawn_each(self, tag: str, items: list[tuple[str, bytes, list[Any]]], method: str) -> list[str]:
        """One call per input. Raises as `spawn` does."""
        self._check_room(tag, len(items))
        ids = []
        for item in items:
            call = self._new_call(tag, method)
            self._add(call, [item], True)
            ids.append(call.call_id)
        return ids

    async def spawn_more(self, call_id: str, items: list[tuple[str, bytes, list[Any]]]) -> None:
        """More inputs for a call; none means that it is complete. Raises as `spawn` does."""
        call = self._call(call_id)
        self._check_room(call.tag, len(items))
        self._add(call, items, not items)

    def _check_room(self, tag: str, more: int) -> None:
        reached = self._limits.spawned_reached(self._open_inputs[tag], more)
        if reached is not None:
            raise ResourceExhaustedError(
                f"Function {tag!r}: {reached}. Wait until some have ended, spawn fewer, or raise the limit."
            )

    async def get_call(self, call_id: str, index: int, wait_s: float) -> Any:
        """Outcome of one input as (kind, data), or None if there is none after `wait_s`."""
        call = self._call(call_id)
        deadline = self._now() + wait_s
        while index not in call.outcomes:
            if call.complete and index >= call.run.ledger.known:
                raise InvalidError(f"{call_id} has {call.run.ledger.known} inputs, so there is no index {index}")
            left = deadline - self._now()
            if left <= 0:
                return None
            try:
                async with asyncio.timeout(left):
                    await call.changed.wait()
            except TimeoutError:
                return None
        kind, data = call.outcomes[index]
        if kind == "reply" and isinstance(data, list | tuple):
            # Buffers as Ray handed them over cannot be pickled again; so they travel beside the pickle, without a copy.
            data = [data[0], *map(pickle.PickleBuffer, data[1:])]
        return kind, data

    async def num_inputs(self, call_id: str) -> int:
        return self._call(call_id).run.ledger.known

    async def call_info(self, call_id: str) -> dict[str, Any]:
        call = self._call(call_id)
        return {
            "tag": call.tag,
            "inputs": call.run.ledger.known,
            "outcomes": {
                index: ("failure", data[0]) if kind == "failure" else ("reply", "")
                for index, (kind, data) in call.outcomes.items()
            },
        }

    async def cancel_call(self, call_id: str, terminate: bool) -> None:
        """Cancel a spawned call. Outcomes that are there stay."""
        call = self._call(call_id)
        if call.task is None or call.task.done():
            return
        call.cancelled = True
        containers = {sent.slot.container_id for sent in call.run._sent.values()}
        call.task.cancel()
        if terminate:
            for container_id in containers:
                await self.kill(container_id, "its call was cancelled with terminate_containers=True")

    def _new_call(self, tag: str, method: str) -> _SpawnedCall:
        call_id = new_call_id()
        inbox = AsyncInbox()
        pool = self._client.pool(tag)
        run = Run(pool, call_id, inbox.put, kind=wire.EACH_CALL, raw=True, one_by_one=True, method=method)
        call = _SpawnedCall(call_id, tag, inbox, run)
        self._calls[call_id] = call
        call.task = self._spawn(self._drive(call))
        call.task.add_done_callback(lambda task: self._ended_early(call) if task.cancelled() else None)
        return call

    def _ended_early(self, call: _SpawnedCall) -> None:
        """It was cancelled, maybe before its task had begun, so that nothing in there has been done."""
        self._end_all(call, Failure(wire.CANCELLED, None, f"Function call {call.call_id} was cancelled"))
        call.run.close()
        call.notify()

    def _add(self, call: _SpawnedCall, items: list[tuple[str, bytes, list[Any]]], complete: bool) -> None:
        if call.run.ledger.closed:
            return
        if items:
            self._open_inputs[call.tag] += len(items)
            call.run.add([Encoded(blob, held or None) for _, blob, held in items])
        if complete:
            call.run.ledger.close()
            call.complete = True
        call.inbox.put(("check",))

    def _call(self, call_id: str) -> _SpawnedCall:
        call = self._calls.get(call_id)
        if call is None:
            raise NotFoundError(f"No function call {call_id} in this app; calls of a run are forgotten when it ends")
        return call

    async def _drive(self, call: _SpawnedCall) -> None:
        run = call.run
        try:
            run.send_all()
            self._collect(call)
            while not run.ledger.finished:
                await take_events_async(run, call.inbox)
                run.send_all()
                self._collect(call)
        except (asyncio.CancelledError, ClientClosed):
            failure = Failure(wire.CANCELLED, None, f"Function call {call.call_id} was cancelled")
            self._end_all(call, failure)
            if not call.cancelled and not self._stopped:
                raise
        except Exception as error:
            # Whoever asks for an outcome would ask for ever.
            self._end_all(call, wire.encode_failure(error, "the app's controller", wire.START))
            raise
        finally:
            run.close()
            call.notify()

    def _end_all(self, call: _SpawnedCall, failure: Failure) -> None:
        known = len(call.outcomes)
        for index in range(call.run.ledger.known):
            call.outcomes.setdefault(index, ("failure", failure.pack()))
        self._open_inputs[call.tag] -= len(call.outcomes) - known
        call.complete = True

    def _collect(self, call: _SpawnedCall) -> None:
        while call.run.delivered:
            index, outcome, _ = call.run.delivered.popleft()
            self._open_inputs[call.tag] -= index not in call.outcomes
            call.outcomes[index] = outcome
        call.notify()

    # --- questions

    async def stats(self, tag: str) -> dict[str, Any]:
        """What a function looks like now: inputs that wait and run, containers by state."""
        pool, stats = self._fleet.pools[tag], self._fleet.stats(tag)
        unreported = self._client.pool(tag).unreported if self._open_inputs[tag] else 0
        return {
            "backlog": max(0, self._fleet.unmet(tag) + unreported),
            "running": stats.leases,
            "containers": stats.starting + stats.busy + stats.idle,
            "starting": stats.starting,
            "busy": stats.busy,
            "idle": stats.idle,
            "demand": max(0, stats.demand + unreported),
            "target": pool.decision.target if pool.decision else 0,
            "waits_for": self._fleet.waits_for(tag),
        }

    async def why(self, tag: str) -> dict[str, Any]:
        """Why a function has as many containers as it has: rules, figures of now, and the last decisions, newest first.

        Raises:
            NotFoundError: no such pool.
        """
        pool = self._fleet.pools.get(tag)
        if pool is None:
            raise NotFoundError(f"No function {tag!r} has containers in this app. {self._known_pools()}")
        now, figures = self._now(), await self.stats(tag)
        return {
            "function": tag,
            "because": explain(pool.decision, figures["demand"], pool.decided_by or pool.rules)
            if pool.decision
            else "no inputs",
            "rules": {**await self.rules(tag), "target_inputs": pool.rules.target_inputs},
            "now": figures,
            "startup": {"typical_s": pool.startup.typical, "late_s": pool.startup.late},
            "failed_starts": pool.failed_starts,
            "decisions": [
                {
                    "seconds_ago": now - past.at,
                    "target": past.decision.target,
                    "limited_by": past.decision.limited_by,
                    "because": explain(past.decision, past.demand, past.rules),
                    "demand": past.demand,
                    "starting": past.starting,
                    "busy": past.busy,
                    "idle": past.idle,
                }
                for past in reversed(pool.decisions)
            ],
        }

    async def pool_tags(self) -> list[str]:
        """Functions, and the objects of classes that are in use."""
        return list(self._fleet.pools)

    def _known_pools(self) -> str:
        tags = [f"'{tag}'" for tag in list(self._fleet.pools)[:20]]
        return f"It has {', '.join(tags)}" + ("." if len(self._fleet.pools) <= 20 else ", ...")

    async def facts(self) -> dict[str, Any]:
        """Figures for tests and tools: control calls handled, containers by function."""
        return {
            "pid": os.getpid(),
            "calls_handled": self.calls_handled,
            "asked_at": {process.tag: process.asked_at for process in self._live.values()},
            "containers": {cid: process.tag for cid, process in self._live.items()},
        }

    async def rules(self, tag: str) -> dict[str, Any]:
        rules = self._fleet.pools[tag].rules
        return {
            "min_containers": rules.min_containers,
            "max_containers": rules.max_containers,
            "buffer_containers": rules.buffer_containers,
            "scaledown_window": rules.scaledown_window,
        }

    async def set_rules(self, tag: str, changes: dict[str, Any]) -> dict[str, Any]:
        if tag not in self._fleet.pools:
            raise NotFoundError(f"No function {tag!r} has containers in this app. {self._known_pools()}")
        try:
            self._fleet.set_rules(tag, **changes)
        except (TypeError, ValueError) as error:
            raise InvalidError(str(error)) from None
        self._step()
        return await self.rules(tag)

    # --- carrying out

    def _caller(self, client_id: str, container_id: str | None, now: float) -> _Caller:
        self._fleet.client_seen(client_id, now, container_id)
        caller = self._callers.get(client_id)
        if caller is None:
            caller = self._callers[client_id] = _Caller()
            if container_id is None and client_id != self._client.link.client_id:
                self._driver = client_id
                for note in self._notes:
                    caller.tell("note", *note)
        return caller

    def _take(self, caller: _Caller) -> list[Any]:
        events = list(caller.events)
        caller.events.clear()
        return events

    def _step(self) -> None:
        """Let the fleet act on what is known now, and carry it out."""
        if self._stopped:
            return
        self._run_commands(self._fleet.evaluate(self._now()))
        self._tell_counts()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        again = self._fleet.again_at
        if again is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.02, again - self._now()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._spawn(self._timed_step())

    async def _timed_step(self) -> None:
        try:
            await self._look_at_room()
        finally:
            self._step()  # with what was known before; else nothing would wake the fleet again

    def _run_commands(self, commands: list[fl.Command]) -> None:
        for command in commands:
            if isinstance(command, fl.Grant):
                self._grant(command)
            elif isinstance(command, fl.Start):
                self._start(command)
            elif isinstance(command, fl.Yield):
                self._tell(command.client_id, "yield", command.tag, command.lease_id)
            elif isinstance(command, fl.Revoke):
                self._tell(command.client_id, "revoke", command.tag, command.lease_id, command.gone)
            elif isinstance(command, fl.Drain):
                process = self._live.get(command.container_id)
                if process is not None:
                    grace_s = DRAIN_S + (self._setups[process.tag].plan.spec.timeout_s if command.patient else 0.0)
                    self._spawn(self._finish(command.container_id, process, command.reason, grace_s))
            elif isinstance(command, fl.Kill):
                process = self._live.get(command.container_id)
                if process is None or self._stopped:
                    continue  # at the end of the app every container ends in its own time
                if not command.in_order:
                    self._host.kill(process.handle)
                    self._gone(command.container_id, command.reason)
                    continue
                process.command("cancel_all", SILENT_TEXT, wire.LOST)
                grace_s = DRAIN_S if self._has_exit_hooks(process.tag) else STOP_S
                self._spawn(self._finish(command.container_id, process, command.reason, grace_s))
            elif isinstance(command, fl.CancelFor):
                process = self._live.get(command.container_id)
                if process is not None:
                    process.command("cancel_sender", command.client_id, SILENT_TEXT, wire.LOST)
            elif isinstance(command, fl.Refuse):
                self._tell(command.client_id, "refuse", command.tag, command.failure)
            elif isinstance(command, fl.Note):
                self._note(command.key, command.text)

    def _grant(self, grant: fl.Grant) -> None:
        process = self._live[grant.container_id]
        if grant.client_id == self._client.link.client_id:
            self._client.handle([("grant", grant.tag, grant.lease_id, grant.container_id, process.handle)])
            return
        if process.shared is None:
            process.shared = self._host.share(process.handle)
        self._tell(grant.client_id, "grant", grant.tag, grant.lease_id, grant.container_id, process.shared)

    def _tell(self, client_id: str, *event: Any) -> None:
        if client_id == self._client.link.client_id:
            self._client.handle([event])
            return
        caller = self._callers.get(client_id)
        if caller is not None:
            caller.tell(*event)

    def _has_exit_hooks(self, tag: str) -> bool:
        cls = self._setups[tag].plan.cls
        return cls is not None and cls.has_exit_hooks

    def _note(self, key: str, *facts: Any) -> None:
        if key in self._warned:
            return
        self._warned.add(key)
        self._notes.append((key, *facts))
        if self._driver is not None:
            self._tell(self._driver, "note", key, *facts)

    def _tell_counts(self) -> None:
        if self._driver is None:
            return
        for tag in self._fleet.touched():
            counts = (0, 0)
            if not self._fleet.pools[tag].is_asleep:
                stats = self._fleet.stats(tag)
                counts = (stats.starting, stats.busy + stats.idle)
            if self._counts.get(tag, (0, 0)) != counts:
                self._counts[tag] = counts
                self._tell(self._driver, "note", "containers", tag, *counts)

    def _start(self, start: fl.Start) -> None:
        setup = self._setups[start.tag]
        misfit = self._host.misfit(start.tag)
        if misfit is not None:
            text, can_grow = misfit
            if not can_grow:
                failure = Failure(wire.START, None, text).pack()
                self._run_commands(self._fleet.container_failed(start.container_id, failure, self._now(), by_user=True))
                self._spawn(self._timed_step())  # when the next attempt is due was not known when this step began
                return
            self._note(f"misfit:{start.tag}", text)
        plan = replace(setup.plan, container_id=start.container_id)
        try:
            handle = self._host.start(plan, free=start.free)
        except Exception as error:  # noqa: BLE001 - whatever keeps a container from being asked for is told to its callers
            failure = Failure(
                wire.START, None, f"Function {start.tag!r}: no container could be asked for: {error}"
            ).pack()
            self._run_commands(self._fleet.container_failed(start.container_id, failure, self._now(), by_user=True))
            self._spawn(self._timed_step())
            return
        process = self._live[start.container_id] = _Live(handle, start.tag, self._now())
        self._spawn(self._await_ready(start.container_id, process))

    async def _await_ready(self, container_id: str, process: _Live) -> None:
        setup = self._setups[process.tag]
        spec = setup.plan.spec
        limit = float(spec.startup_timeout_s or max(spec.timeout_s, 1))
        try:
            failure = await self._ready_within(process, container_id, limit)
        except Gone as gone:
            self._failed(
                container_id,
                Failure(
                    wire.START,
                    None,
                    f"Function {process.tag!r}: its container ended while it started, {MAX_START_FAILURES} times in a row: {gone.text}",
                    where=container_id,
                ),
                by_user=False,
            )
            return
        except TimeoutError:
            self._host.kill(process.handle)
            self._failed(
                container_id,
                Failure(
                    wire.START,
                    None,
                    f"Function {process.tag!r}: the container was not ready after startup_timeout={limit:g} s, so it was killed: imports and enter hooks had not ended. "
                    "Give them longer (where it is not given, startup_timeout= is timeout=), or see what they wait for.",
                    where=container_id,
                ),
                by_user=True,
            )
            return
        if failure is not None:
            self._host.kill(process.handle)
            self._failed(container_id, Failure(*failure), by_user=True)
            return
        self._fleet.container_ready(container_id, self._now())
        self._step()

    async def _ready_within(self, process: _Live, container_id: str, limit: float) -> tuple[Any, ...] | None:
        """Wait for a container to load. The clock of `startup_timeout` runs from its process's start, not while it waits for room."""
        ready = asyncio.ensure_future(self._host.ready(process.handle))
        begun: float | None = None
        asked = process.asked_at
        is_stalled = False
        while True:
            done, _ = await asyncio.wait({ready}, timeout=0.5)
            if done:
                return ready.result()
            if begun is None and process.polled_at > asked:
                begun = process.polled_at
            now = self._now()
            if begun is not None and now - begun > limit:
                ready.cancel()
                raise TimeoutError
            if begun is None and now - asked > STALLED_S and not is_stalled:
                is_stalled = True
                self._fleet.container_stalled(container_id)
                self._step()
                self._spawn(self._say_what_stalls(process.tag))

    async def _say_what_stalls(self, tag: str) -> None:
        ask, free = self._setups[tag].ask, await self._host.free()
        what = "has not begun to start" if free.holds(ask) else "has been waiting for room in the cluster"
        self._note(
            f"slow:{tag}",
            f"Function {tag!r}: a container {what} for {STALLED_S:g} s; it asks for {wishes(ask)}, and free are {have(ask, free)}.",
        )

    def _failed(self, container_id: str, failure: Failure, *, by_user: bool) -> None:
        self._live.pop(container_id, None)
        self._run_commands(self._fleet.container_failed(container_id, failure.pack(), self._now(), by_user=by_user))
        self._step()

    async def _finish(self, container_id: str, process: _Live, reason: str, grace_s: float) -> None:
        """Drain a container: let it end by itself, else end it."""
        try:
            async with asyncio.timeout(grace_s):
                await self._host.finish(process.handle, reason)
        except (Gone, TimeoutError):
            pass
        self._host.kill(process.handle)
        self._gone(container_id, reason)

    def _gone(self, container_id: str, why: str) -> None:
        process = self._live.pop(container_id, None)
        if process is None:
            return
        process.command("exit")
        container = self._fleet.containers.get(container_id)
        if container is not None and container.status is Status.STARTING:
            return  # `_await_ready` reports it with the reason
        self._run_commands(self._fleet.container_gone(container_id, self._now()))
        for client_id in [c for c in self._callers if c == container_id]:
            self._callers.pop(client_id)
        self._step()

    async def _watch_silent(self) -> None:
        """Ask containers that have been silent whether they live. Silence alone proves nothing: the interpreter lock may be held."""
        while not self._stopped:
            await asyncio.sleep(SILENT_S / 5)
            now = self._now()
            for container_id, process in list(self._live.items()):
                container = self._fleet.containers.get(container_id)
                if (
                    container is None
                    or container.status is not Status.READY
                    or container.leases
                    or now - process.polled_at < SILENT_S
                ):
                    continue
                process.polled_at = now
                try:
                    is_alive = await self._host.is_alive(process.handle)
                except Exception as error:  # noqa: BLE001 - the others are looked at all the same
                    self._note(f"silent:{type(error).__name__}", f"raymodal's controller: {error!r}")
                    continue
                if not is_alive:
                    self._gone(container_id, "the container ended by itself")

    async def _look_at_room(self, *, force: bool = False) -> None:
        now = self._now()
        if not force and now - self._room_at < 1.0:
            return
        self._room_at = now
        self._fleet.room, self._fleet.cores = await self._host.room()

    def _refresh_room(self) -> None:
        """Look at the room again soon. Not before acting: asking the cluster takes longer than all else between a demand and its container."""
        if self._now() - self._room_at >= 1.0:
            self._spawn(self._timed_step())

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._stopped:
            self._note(f"internal:{type(error).__name__}", f"raymodal's controller: {type(error).__name__}: {error}")


class _Loopback:
    """The controller as a caller of its own app: for spawned calls."""

    def __init__(self, service: ControllerService) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self.client_id = OWN_CLIENT_ID

    def controller(self, method: str, *args: Any) -> Any:
        return getattr(self._service, method)(*args)

    def tell(self, method: str, *args: Any) -> None:
        """Any thread: what became of a container is heard on Ray's own."""
        self._loop.call_soon_threadsafe(self._begin, method, args)

    def _begin(self, method: str, args: tuple[Any, ...]) -> None:
        self._service._spawn(getattr(self._service, method)(*args))

    def submit(self, container: Any, method: str, args: tuple[Any, ...], on_done: OnDone) -> None:
        self._service._host.submit(container, method, args, on_done)

    def ask(self, container: Any, method: str, args: tuple[Any, ...], on_done: OnDone) -> Any:
        self.submit(container, method, args, on_done)
        return NOT_YET

    def hold(self, buffer: Any) -> Any:
        return self._service._host.hold(buffer)

    def fetch(self, box: Any, on_done: OnDone) -> None:
        self._service._host.fetch(box, on_done)

    def is_behind(self) -> bool:
        return False

    def catch_up(self) -> None:
        """Spawned calls' outcomes stay here; who gets one catches up itself."""


def _container_id() -> str:
    return "ta-" + secrets.token_hex(11)
