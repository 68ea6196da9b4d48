"""What `@app.function` was told, as one frozen value.

Nothing is decided here: defaults that Modal leaves to the platform stay `None` (`scaledown_window`, `max_containers`),
and checks that Modal makes only when an app is loaded are made by `plan.app`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from raymodal.spec.image import ImageSpec
from raymodal.spec.storage import BucketSpec, SecretSpec, VolumeSpec


class GpuRequest(BaseModel):
    """One acceptable kind of GPU. `type` is upper case; `ANY` means whatever there is."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    type: str
    count: int = 1

    def __str__(self) -> str:
        return self.type if self.count == 1 else f"{self.type}:{self.count}"


class RetryPolicy(BaseModel):
    """How often and how soon a failed input runs again."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    max_retries: int
    backoff_coefficient: float = 1.0
    initial_delay_s: float = 1.0
    max_delay_s: float = 60.0


class ScheduleSpec(BaseModel):
    """`Cron` or `Period`, as given."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["cron", "period"]
    cron_string: str = ""
    timezone: str = "UTC"
    years: int = 0
    months: int = 0
    weeks: int = 0
    days: int = 0
    hours: int = 0
    minutes: int = 0
    seconds: float = 0.0


class BatchSpec(BaseModel):
    """`@batched`: how large a batch gets and how long its first input waits for company."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    max_batch_size: int
    wait_ms: int


class WebSpec(BaseModel):
    """A web decorator and its options."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["function", "asgi_app", "wsgi_app", "web_server"]
    method: str | None = None
    label: str | None = None
    custom_domains: tuple[str, ...] = ()
    docs: bool = False
    requires_proxy_auth: bool = False
    port: int | None = None
    startup_timeout_s: float | None = None


class ClusterSpec(BaseModel):
    """`@clustered`: containers that start together."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    size: int
    rdma: bool = False
    fabric_size: int | None = None


class FunctionSpec(BaseModel):
    """One declared function.

    Attributes:
        tag: the name it is registered and looked up under.
        module: its import name; the file's stem for a script run as `__main__`; None when it travels by value without one.
        qualname: where it stands in the module.
        file: absolute path of the module's file, None if it has none.
        by_value: it is pickled instead of imported (`serialized=True`, notebooks, the REPL).
        gpu: acceptable GPUs, most wanted first; empty for none.
        scaledown_window: seconds; None for the default of 60.
        startup_timeout_s: None for `timeout_s`.
        webhook: set for web functions, which take no other calls.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    tag: str
    module: str | None
    qualname: str
    file: str | None = None
    by_value: bool = False
    is_generator: bool = False
    is_async: bool = False

    cpu: float | None = None
    cpu_limit: float | None = None
    memory_mib: int | None = None
    memory_limit_mib: int | None = None
    gpu: tuple[GpuRequest, ...] = ()
    ephemeral_disk_mib: int | None = None

    min_containers: int | None = None
    max_containers: int | None = None
    buffer_containers: int | None = None
    scaledown_window: float | None = None
    single_use_containers: bool = False

    max_concurrent_inputs: int | None = None
    target_concurrent_inputs: int | None = None
    batching: BatchSpec | None = None

    retries: RetryPolicy | None = None
    timeout_s: float = 300
    startup_timeout_s: float | None = None

    image: ImageSpec | None = None
    env: dict[str, str] = Field(default_factory=dict, repr=False)
    secrets: tuple[SecretSpec, ...] = ()
    volumes: tuple[VolumeSpec, ...] = ()
    buckets: tuple[BucketSpec, ...] = ()
    network_file_systems: tuple[str, ...] = ()

    schedule: ScheduleSpec | None = None
    webhook: WebSpec | None = None
    cluster: ClusterSpec | None = None

    region: tuple[str, ...] = ()
    routing_region: str | None = None
    cloud: str | None = None
    proxy: str | None = None
    nonpreemptible: bool = False
    block_network: bool = False
    restrict_modal_access: bool = False
    restrict_output: bool = False
    i6pn: bool | None = None
    include_source: bool = True
    enable_memory_snapshot: bool = False
    experimental_options: dict[str, str] = Field(default_factory=dict)


def spec_env(spec: FunctionSpec) -> dict[str, str]:
    """The environment variables of the function's containers: the image's, then the secrets in order, then `env=`.

    Example:
        >>> spec_env(FunctionSpec(tag="f", module="m", qualname="f", env={"A": "1"}))
        {'A': '1'}
    """
    merged: dict[str, str] = dict(spec.image.env) if spec.image is not None else {}
    for secret in spec.secrets:
        merged.update(secret.values)
    merged.update(spec.env)
    return merged
