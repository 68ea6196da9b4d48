"""What one container is told: plain data, made in the caller, read in the container. No Ray, no environment reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raymodal.logic.limits import Limits
from raymodal.spec.cls import ClsSpec
from raymodal.spec.function import BatchSpec, FunctionSpec

EXCHANGES = 32  # callers that may wait at the same time for outcomes of one container that runs several inputs at once


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """Everything a container of one function needs to start.

    Attributes:
        container_id: `ta-...`; empty in the pool's template, filled in by the controller.
        blob: the pickled function or class for those that travel by value, else None.
        env: environment variables set before user code is imported. Secrets are among them, hence no repr.
        source_root: folder of the program's main file.
        sys_path: more entries for `sys.path`.
        main_module: import name of the main file.
        tags: functions of the app, so that handles in the container know each other.
        hide_gpus: the function asked for none, so it must not see any.
        output: where printed lines go, None for nowhere.
        cwd: working directory, if it exists on the node.
        read_only_arrays: large buffers are handed to user code without a copy.
        cls: set for the containers of a class: its methods, hooks and parameters.
        request: what the pool of an object with arguments or changed options was opened with.
    """

    app_id: str
    app_name: str | None
    container_id: str
    spec: FunctionSpec
    blob: bytes | None = field(repr=False)
    env: dict[str, str] = field(repr=False)
    source_root: str
    sys_path: tuple[str, ...]
    main_module: str | None
    tags: dict[str, FunctionFacts]
    hide_gpus: bool = True
    output: str | None = None
    cwd: str = ""
    read_only_arrays: bool = False
    cls: ClsSpec | None = None
    request: PoolRequest | None = None


@dataclass(frozen=True, slots=True)
class PoolRequest:
    """The pool of one set of arguments and options of a class: equal ones have one pool, whoever asks first.

    Attributes:
        tag: of this pool.
        base: tag of the class's own pool, whose settings hold wherever `changes` does not say otherwise.
        arguments: of the constructor, as `plan.cls.encode_arguments` made them.
        changes: fields of the `FunctionSpec` that `with_options` and the like have changed.
    """

    tag: str
    base: str
    arguments: bytes | None = field(default=None, repr=False)
    changes: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def spec(self, base: FunctionSpec) -> FunctionSpec:
        """The settings of this pool."""
        return base.model_copy(update={**self.changes, "tag": self.tag})

    def facts(self, base: FunctionFacts) -> FunctionFacts:
        """What a caller must know of this pool."""
        timeout_s = float(self.changes.get("timeout_s", base.timeout_s))
        lanes = 1 if base.is_single_use else self.changes.get("max_concurrent_inputs", base.lanes)
        retries = self.changes.get("retries", base.retries)
        batch = self.changes.get("batching", base.batch)
        return replace(base, tag=self.tag, timeout_s=timeout_s, retries=retries, lanes=max(1, lanes or 1), batch=batch)


def as_recorded(plan: ContainerPlan) -> ContainerPlan:
    """What of a plan a cluster may record: enough to begin a process with, and nothing that may hold a secret.

    Without the values of variables, which are in specs and images too, and without what is pickled: handles that it
    holds bring their specs along.
    """
    none: dict[str, Any] = {"secrets": (), "env": {}, "image": None}
    cls, request = plan.cls, plan.request
    if cls is not None:
        cls = cls.model_copy(update={"service": cls.service.model_copy(update=none)})
    if request is not None:
        request = replace(request, arguments=None, changes={})
    return replace(plan, env={}, blob=None, spec=plan.spec.model_copy(update=none), cls=cls, request=request)


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How a caller behaves; the same in the driver and in every container of an app. See `config.Settings` for the meaning."""

    linger_s: float = 1.0
    max_outstanding: int = 1000
    max_losses: int = 3
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """What a caller must know of a function to call it.

    Attributes:
        lanes: inputs, or batches of them, that a container runs at once.
        batch: it runs inputs in batches.
        is_single_use: a container runs one input, or one batch, and then ends.
    """

    tag: str
    object_id: str
    is_generator: bool
    timeout_s: float
    retries: object  # spec.function.RetryPolicy | None
    lanes: int = 1
    batch: BatchSpec | None = None
    is_single_use: bool = False

    @property
    def is_shared(self) -> bool:
        """Whether several callers' inputs may be in one container."""
        return self.lanes > 1 or self.batch is not None

    @property
    def slots(self) -> int:
        """Inputs that may be at a container at once: of batches also those that the next ones are made of."""
        if self.batch is None:
            return self.lanes
        return (1 if self.is_single_use else 2) * self.lanes * self.batch.max_batch_size

    @property
    def patience_s(self) -> float:
        """How long an answer may take that the container cares for: with batches an input waits for company, and for the batch before."""
        return self.timeout_s if self.batch is None else 2 * self.timeout_s + self.batch.wait_ms / 1000


def facts_of(spec: FunctionSpec, object_id: str) -> FunctionFacts:
    return FunctionFacts(
        spec.tag,
        object_id,
        spec.is_generator,
        spec.timeout_s,
        spec.retries,
        lanes_of(spec),
        spec.batching,
        spec.single_use_containers,
    )


def lanes_of(spec: FunctionSpec) -> int:
    """Inputs, or batches of them, that a container of these settings runs at once."""
    return 1 if spec.single_use_containers else max(1, spec.max_concurrent_inputs or 1)


def is_shared(spec: FunctionSpec) -> bool:
    """Whether a container of these settings has several inputs at once, so that it is not run on its main thread."""
    return lanes_of(spec) > 1 or spec.batching is not None
