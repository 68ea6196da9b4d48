"""The values that methods return: plain dataclasses and enumerations, as in Modal."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from raymodal.spec.function import FunctionSpec


class AppState(str, enum.Enum):  # noqa: UP042  Modal's own bases
    """One of a few words."""

    DEPLOYED = "deployed"
    DETACHED = "detached"
    DISABLED = "disabled"
    EPHEMERAL = "ephemeral"
    INITIALIZING = "initializing"
    STOPPED = "stopped"
    STOPPING = "stopping"

    def __str__(self) -> str:
        return self.value


class FileEntryType(enum.IntEnum):
    """One of a few words."""

    UNSPECIFIED = 0
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5


class FileType(enum.Enum):
    """One of a few words."""

    DIRECTORY = "directory"
    FILE = "file"
    SYMLINK = "symlink"


class FileWatchEventType(enum.Enum):
    """One of a few words."""

    Access = "Access"
    Create = "Create"
    Modify = "Modify"
    Remove = "Remove"
    Unknown = "Unknown"


class InputStatus(enum.IntEnum):
    """One of a few words."""

    PENDING = 0
    SUCCESS = 1
    FAILURE = 2
    TERMINATED = 3
    TIMEOUT = 4
    INIT_FAILURE = 5


@dataclass(frozen=True)
class StatsPercentile:
    """A value that a later milestone returns."""

    percentile: float
    value: float


@dataclass(frozen=True)
class StatsPercentileDistribution:
    """A value that a later milestone returns."""

    unit: str
    percentiles: list[StatsPercentile]


@dataclass(frozen=True)
class TimeSeriesPoint:
    """A value that a later milestone returns."""

    time: datetime
    value: float | None


@dataclass(frozen=True)
class MetricDefinition:
    """A value that a later milestone returns."""

    name: str
    unit: str
    description: str


@dataclass(frozen=True)
class MetricSeries:
    """A value that a later milestone returns."""

    name: str
    unit: str
    aggregation: str
    points: list[TimeSeriesPoint]
    description: str = ""


@dataclass(frozen=True)
class MetricsSchema:
    """A value that a later milestone returns."""

    name: str
    definitions: list[MetricDefinition]


@dataclass(frozen=True)
class AppInfo:
    """A value that a later milestone returns."""

    app_id: str
    description: str
    lifecycle: AppLifecycle
    functions: dict[str, str]
    servers: dict[str, str]


@dataclass
class AppLifecycle:
    """A value that a later milestone returns."""

    state: AppState
    version: int | None
    created_at: datetime
    created_by: str
    deployed_at: datetime | None
    deployed_by: str | None
    stopped_at: datetime | None
    stopped_by: str | None


@dataclass(frozen=True)
class AppStats:
    """A value that a later milestone returns."""

    @dataclass(frozen=True)
    class CallCounts:
        """A part of it."""

        total: int
        succeeded: int
        failed: int

    @dataclass(frozen=True)
    class ContainerCounts:
        """A part of it."""

        errors: int
        total: int

    @dataclass(frozen=True)
    class FunctionCounts:
        """A part of it."""

        calls: AppStats.CallCounts
        containers: AppStats.ContainerCounts

    @dataclass(frozen=True)
    class FunctionStats:
        """A part of it."""

        object_id: str
        counts: AppStats.FunctionCounts

    @dataclass(frozen=True)
    class FunctionStatsGroup:
        """A part of it."""

        total: AppStats.FunctionCounts
        by_name: dict[str, AppStats.FunctionStats]

        def __getitem__(self, name: str) -> AppStats.FunctionStats:
            return self.by_name[name]

        def __iter__(self) -> Iterator[str]:
            return iter(self.by_name)

        def __len__(self) -> int:
            return len(self.by_name)

    @dataclass(frozen=True)
    class RequestCounts:
        """A part of it."""

        total: int
        ok: int
        failed: int

    @dataclass(frozen=True)
    class SandboxCounts:
        """A part of it."""

        total: int
        finished: int
        live: int

    @dataclass(frozen=True)
    class ServerCounts:
        """A part of it."""

        requests: AppStats.RequestCounts
        containers: AppStats.ContainerCounts

    @dataclass(frozen=True)
    class ServerStats:
        """A part of it."""

        object_id: str
        counts: AppStats.ServerCounts

    @dataclass(frozen=True)
    class ServerStatsGroup:
        """A part of it."""

        total: AppStats.ServerCounts
        by_name: dict[str, AppStats.ServerStats]

        def __getitem__(self, name: str) -> AppStats.ServerStats:
            return self.by_name[name]

        def __iter__(self) -> Iterator[str]:
            return iter(self.by_name)

        def __len__(self) -> int:
            return len(self.by_name)

    since: datetime
    until: datetime
    functions: FunctionStatsGroup
    servers: ServerStatsGroup
    sandboxes: SandboxCounts
    lifecycle: AppLifecycle
    deployment_count: int | None


@dataclass(frozen=True)
class BillingReportItem:
    """A value that a later milestone returns."""

    object_id: str
    description: str
    environment_name: str
    interval_start: datetime
    cost: Decimal
    cost_by_resource: dict[str, Decimal]
    tags: dict[str, str]

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __setitem__(self, key: str, _: Any) -> None:
        raise TypeError("A report cannot be changed")

    def keys(self) -> Iterable[str]:
        """Names of the fields, as the dictionary that this once was had them."""
        return [one.name for one in fields(self)]

    def values(self) -> Iterable[Any]:
        """The fields' values."""
        return [getattr(self, key) for key in self.keys()]

    def items(self) -> Iterable[tuple[str, Any]]:
        """Names and values."""
        return [(key, getattr(self, key)) for key in self.keys()]


@dataclass(frozen=True)
class CloudBucketMountInfo:
    """A value that a later milestone returns."""

    bucket_name: str
    bucket_type: Literal["s3", "r2", "gcp"]
    read_only: bool
    key_prefix: str | None


@dataclass
class DictInfo:
    """A value that a later milestone returns."""

    name: str | None
    created_at: datetime
    created_by: str | None


@dataclass(frozen=True)
class EnvironmentBillingSummary:
    """A value that a later milestone returns."""

    start: datetime
    end: datetime
    metered_cost: Decimal
    metered_cost_breakdown: dict[str, Decimal]


@dataclass(frozen=True)
class FileEntry:
    """One entry of a volume."""

    path: str
    type: FileEntryType
    mtime: int
    size: int


@dataclass(frozen=True)
class FileInfo:
    """A value that a later milestone returns."""

    name: str
    path: str
    type: FileType
    size: int
    mode: int
    permissions: str
    owner: str
    group: str
    modified_time: float
    symlink_target: str | None

    def is_dir(self) -> bool:
        """Whether it is one."""
        return self.type is FileType.DIRECTORY

    def is_file(self) -> bool:
        """Whether it is one."""
        return self.type is FileType.FILE

    def is_symlink(self) -> bool:
        """Whether it is one."""
        return self.type is FileType.SYMLINK


@dataclass
class FileWatchEvent:
    """A value that a later milestone returns."""

    paths: list[str]
    type: FileWatchEventType


@dataclass(frozen=True)
class FunctionAutoscalerSettings:
    """The values in force; None for no limit."""

    min_containers: int | None
    max_containers: int | None
    scaledown_window: int | None
    buffer_containers: int | None


@dataclass(frozen=True)
class FunctionCurrentStats:
    """How many inputs wait and run now, and how many containers there are."""

    backlog: int
    num_total_runners: int
    num_running_inputs: int
    input_headroom: int


@dataclass(frozen=True)
class ContainerStats(FunctionCurrentStats):
    """`FunctionCurrentStats`, and what raymodal knows besides.

    Attributes:
        num_starting: containers that are not ready yet, those that wait for room included.
        num_busy: containers that run something.
        num_idle: containers that are ready and run nothing.
        waits_for: what keeps one more container from starting, in words; None if nothing does.
    """

    num_starting: int
    num_busy: int
    num_idle: int
    waits_for: str | None


@dataclass(frozen=True)
class ScalingDecision:
    """One decision of the autoscaler that was another one than before.

    Attributes:
        seconds_ago: when it was taken.
        target: containers wanted.
        limited_by: "demand", "min_containers", "max_containers", "scaledown_window", "busy", or "expected".
        because: the same in words, with the figures.
        demand: inputs that waited and ran. The rest: containers there were.
    """

    seconds_ago: float
    target: int
    limited_by: str
    because: str
    demand: int
    starting: int
    busy: int
    idle: int


@dataclass(frozen=True)
class ScalingReport:
    """Why a function has as many containers as it has. `str()` of it is a text for people.

    Attributes:
        settings: what is in force.
        target_inputs: inputs that the autoscaler aims at per container.
        target: containers wanted now. `because`: why, in words.
        startup_s: how long its containers take to start, half of them and 19 of 20, in seconds; None before the first.
        decisions: the last ones, newest first.
    """

    function: str
    settings: FunctionAutoscalerSettings
    target_inputs: int
    stats: ContainerStats
    target: int
    because: str
    startup_s: tuple[float, float] | None
    decisions: tuple[ScalingDecision, ...]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> ScalingReport:
        """From what the controller says."""
        startup, rules = facts["startup"], dict(facts["rules"])
        target_inputs = rules.pop("target_inputs")
        return cls(
            facts["function"],
            autoscaler_settings(rules),
            target_inputs,
            container_stats(facts["now"]),
            facts["now"]["target"],
            facts["because"],
            None if startup["typical_s"] is None else (startup["typical_s"], startup["late_s"]),
            tuple(ScalingDecision(**decision) for decision in facts["decisions"]),
        )

    def __str__(self) -> str:
        now, rules = self.stats, self.settings
        most = "no maximum" if rules.max_containers is None else f"max_containers={rules.max_containers}"
        lines = [
            f"{self.function}: {self.target} container{'' if self.target == 1 else 's'} wanted: {self.because}",
            f"  rules   min_containers={rules.min_containers}, {most}, buffer_containers={rules.buffer_containers}, "
            f"scaledown_window={rules.scaledown_window} s, inputs per container: {self.target_inputs}",
            f"  now     {now.num_starting} starting, {now.num_busy} busy, {now.num_idle} idle; "
            f"inputs: {now.num_running_inputs} run, {now.backlog} wait",
        ]
        if now.waits_for is not None:
            lines.append(f"  waits   for {now.waits_for}")
        if self.startup_s is not None:
            lines.append(f"  starts  take {self.startup_s[0]:.2f} s, 19 of 20 at most {self.startup_s[1]:.2f} s")
        lines += [
            f"  {_ago(d.seconds_ago):>9}  {d.target} wanted: {d.because} (there: {d.starting} starting, {d.busy} busy, {d.idle} idle)"
            for d in self.decisions
        ]
        return "\n".join(lines)


def _ago(seconds: float) -> str:
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit} ago" if size == 1 else f"{seconds / size:.0f} {unit} ago"
    return f"{seconds / 86_400:.0f} days ago"


def autoscaler_settings(rules: Mapping[str, Any]) -> FunctionAutoscalerSettings:
    """From what the controller says."""
    return FunctionAutoscalerSettings(
        min_containers=rules["min_containers"],
        max_containers=rules["max_containers"],
        scaledown_window=int(rules["scaledown_window"]),
        buffer_containers=rules["buffer_containers"],
    )


def container_stats(now: Mapping[str, Any]) -> ContainerStats:
    """From what the controller says."""
    return ContainerStats(
        backlog=now["backlog"],
        num_total_runners=now["containers"],
        num_running_inputs=now["running"],
        input_headroom=max(0, now["containers"] - now["running"]),
        num_starting=now["starting"],
        num_busy=now["busy"],
        num_idle=now["idle"],
        waits_for=now["waits_for"],
    )


@dataclass(frozen=True)
class FunctionInfo:
    """What was declared of a function."""

    @dataclass(frozen=True)
    class BatchingInfo:
        """A part of it."""

        max_batch_size: int
        wait_ms: int

    @dataclass(frozen=True)
    class ClusterInfo:
        """A part of it."""

        size: int
        rdma: bool
        fabric_size: int | None

    @dataclass(frozen=True)
    class ConcurrencyInfo:
        """A part of it."""

        max_inputs: int | None
        target_inputs: int | None

    @dataclass(frozen=True)
    class ImageInfo:
        """A part of it."""

        image_name: str | None
        image_id: str | None

    @dataclass(frozen=True)
    class WebInfo:
        """A part of it."""

        web_url: str
        method: str | None
        unauthenticated: bool

    cpu: float | tuple[float, float] | None
    memory_mib: int | tuple[int, int] | None
    gpus: list[tuple[str, int]]
    ephemeral_disk_mib: int | None
    image_info: ImageInfo
    startup_timeout: int | None
    timeout: int
    max_retries: int | None
    nonpreemptible: bool
    regions: list[str] | None
    routing_region: str | None
    cloud: str | None
    cluster_info: ClusterInfo | None
    batching_info: BatchingInfo | None
    concurrency_info: ConcurrencyInfo | None
    schedule: str | None
    restrict_modal_access: bool
    block_network: bool
    single_use_containers: bool
    volumes: dict[str, VolumeMountInfo]
    cloud_bucket_mounts: dict[str, CloudBucketMountInfo]
    secrets: list[str]
    web_info: WebInfo | None
    method_names: list[str] | None
    method_details: dict[str, WebInfo] | None
    _inner_server_info: Any


@dataclass(frozen=True)
class FunctionStats:
    """A value that a later milestone returns."""

    since: datetime
    until: datetime
    input_success_count: int
    input_failure_count: int
    input_timeout_count: int
    input_running_at_end_count: int
    input_percentile_stats: dict[str, StatsPercentileDistribution]
    container_started_count: int
    container_error_count: int
    container_creating_at_end_count: int
    container_percentile_stats: dict[str, StatsPercentileDistribution]
    container_total_count: int
    variant_count: int
    all_variants: bool


@dataclass
class InputInfo:
    """One input of a call graph."""

    input_id: str
    function_call_id: str
    task_id: str
    status: InputStatus
    function_name: str
    module_name: str
    children: list[InputInfo]


@dataclass(frozen=True)
class LogEntry:
    """One line of kept output."""

    message: str
    timestamp: datetime
    source: Literal["stdout", "stderr", "system"]
    object_id: str
    context_ids: list[str]

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class MemberTokenInfo:
    """A value that a later milestone returns."""

    name: str | None
    token_id: str
    user_id: str
    username: str
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    disabled: bool


@dataclass(frozen=True)
class ObjectMetrics:
    """A value that a later milestone returns."""

    object_id: str
    since: datetime
    until: datetime
    bucket_size: timedelta
    point_count: int
    series: dict[str, MetricSeries]

    def __getitem__(self, name: str) -> MetricSeries:
        return self.series[name]


@dataclass(frozen=True)
class ProxyTokenInfo:
    """A value that a later milestone returns."""

    token_id: str
    created_at: datetime
    scoped: bool
    name: str = ""
    created_by: str = ""


@dataclass
class QueueInfo:
    """A value that a later milestone returns."""

    name: str | None
    created_at: datetime
    created_by: str | None


@dataclass(frozen=True)
class SandboxConnectCredentials:
    """A value that a later milestone returns."""

    url: str
    token: str


@dataclass(frozen=True)
class SandboxGroupStats:
    """A value that a later milestone returns."""

    tags: dict[str, str | None]
    cost: Decimal
    cost_by_resource: dict[str, Decimal]


@dataclass(frozen=True)
class SandboxStats:
    """A value that a later milestone returns."""

    since: datetime
    until: datetime
    duration: timedelta
    percentile_stats: dict[str, StatsPercentileDistribution]
    cost: Decimal | None
    cost_by_resource: dict[str, Decimal]
    billed_cpu_core_seconds: float
    billed_memory_gib_seconds: float


@dataclass
class SecretInfo:
    """What `Secret.info` says; never its values."""

    name: str | None
    environment_name: str
    created_at: datetime
    created_by: str | None
    last_used: datetime | None


@dataclass(frozen=True)
class ServerAutoscalerSettings:
    """A value that a later milestone returns."""

    target_concurrency: int | float | None
    min_containers: int | None
    max_containers: int | None
    buffer_containers: int | None
    scaleup_window: int | None
    scaledown_window: int | None


@dataclass(frozen=True)
class ServerContainerInfo:
    """A value that a later milestone returns."""

    container_id: str
    host: str
    port: int


@dataclass(frozen=True)
class ServerInfo:
    """A value that a later milestone returns."""

    @dataclass(frozen=True)
    class ClusterInfo:
        """A part of it."""

        size: int
        rdma: bool
        fabric_size: int | None

    @dataclass(frozen=True)
    class ImageInfo:
        """A part of it."""

        image_name: str | None
        image_id: str | None

    server_url: str
    port: int
    unauthenticated: bool
    h2_enabled: bool
    routing_region: str | None
    sessioned: bool
    startup_timeout: int
    exit_grace_period: int
    image_info: ImageInfo
    cpu: float | tuple[float, float] | None
    memory_mib: int | tuple[int, int] | None
    gpus: list[tuple[str, int]]
    ephemeral_disk_mib: int | None
    nonpreemptible: bool
    compute_regions: list[str] | None
    cloud: str | None
    cluster_info: ClusterInfo | None
    volumes: dict[str, VolumeMountInfo]
    cloud_bucket_mounts: dict[str, CloudBucketMountInfo]
    secrets: list[str]


@dataclass(frozen=True)
class ServerSessionCredentials:
    """A value that a later milestone returns."""

    session_id: str
    token: str


@dataclass(frozen=True)
class ServerStats:
    """A value that a later milestone returns."""

    @dataclass(frozen=True)
    class InferenceStats:
        """A part of it."""

        engine: str
        status: str
        percentile_stats: dict[str, StatsPercentileDistribution]
        scalar_stats: dict[str, float]

    since: datetime
    until: datetime
    request_count: int
    request_count_by_status_code: dict[int, int]
    request_rate_per_second: float
    request_percentile_stats: dict[str, StatsPercentileDistribution]
    container_started_count: int
    container_error_count: int
    container_creating_at_end_count: int
    container_total_count: int
    container_percentile_stats: dict[str, StatsPercentileDistribution]
    inference: InferenceStats | None


@dataclass(frozen=True)
class ServiceUserInfo:
    """A value that a later milestone returns."""

    service_user_id: str
    name: str
    token_id: str
    created_by: str
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    environment_roles: dict[str, str]


@dataclass(frozen=True)
class TokenData:
    """A value that a later milestone returns."""

    token_id: str
    token_secret: str


@dataclass
class VolumeInfo:
    """A value that a later milestone returns."""

    name: str | None
    created_at: datetime
    created_by: str | None


@dataclass(frozen=True)
class VolumeMountInfo:
    """A value that a later milestone returns."""

    name: str | None
    volume_id: str | None
    read_only: bool
    sub_path: str | None


@dataclass(frozen=True)
class WorkspaceBillingSummary:
    """A value that a later milestone returns."""

    start: datetime
    end: datetime
    metered_cost: Decimal
    metered_cost_breakdown: dict[str, Decimal]
    adjustments: dict[str, Decimal]
    billed_cost: Decimal


@dataclass(frozen=True)
class WorkspaceMemberInfo:
    """A value that a later milestone returns."""

    name: str
    email: str
    user_id: str
    role: str
    joined_at: datetime
    last_active_at: datetime | None


@dataclass(frozen=True)
class WorkspaceSettings:
    """A value that a later milestone returns."""

    default_environment: str
    image_builder_version: str


class VolumeCreateOptions(TypedDict, total=False):
    """Options of `Volume.from_name(create_options=)`."""

    experimental_options: dict[str, Any]


def function_info(spec: FunctionSpec) -> FunctionInfo:
    """What a function's spec says, as Modal shows it."""

    def request(value: Any, limit: Any) -> Any:
        return (value, limit) if limit is not None else value

    return FunctionInfo(
        cpu=request(spec.cpu, spec.cpu_limit),
        memory_mib=request(spec.memory_mib, spec.memory_limit_mib),
        gpus=[(gpu.type, gpu.count) for gpu in spec.gpu],
        ephemeral_disk_mib=spec.ephemeral_disk_mib,
        image_info=FunctionInfo.ImageInfo(image_name=None, image_id=None),
        startup_timeout=None if spec.startup_timeout_s is None else int(spec.startup_timeout_s),
        timeout=int(spec.timeout_s),
        max_retries=None if spec.retries is None else spec.retries.max_retries,
        nonpreemptible=spec.nonpreemptible,
        regions=list(spec.region) or None,
        routing_region=spec.routing_region,
        cloud=spec.cloud,
        cluster_info=None if spec.cluster is None else FunctionInfo.ClusterInfo(**spec.cluster.model_dump()),
        batching_info=None if spec.batching is None else FunctionInfo.BatchingInfo(**spec.batching.model_dump()),
        concurrency_info=None
        if spec.max_concurrent_inputs is None
        else FunctionInfo.ConcurrencyInfo(spec.max_concurrent_inputs, spec.target_concurrent_inputs),
        schedule=None if spec.schedule is None else spec.schedule.cron_string or spec.schedule.kind,
        restrict_modal_access=spec.restrict_modal_access,
        block_network=spec.block_network,
        single_use_containers=spec.single_use_containers,
        volumes={
            volume.mount_path: VolumeMountInfo(volume.name, None, volume.read_only, volume.sub_path)
            for volume in spec.volumes
        },
        cloud_bucket_mounts={
            bucket.mount_path: CloudBucketMountInfo(bucket.bucket_name, "s3", bucket.read_only, bucket.key_prefix)
            for bucket in spec.buckets
        },
        secrets=[secret.name for secret in spec.secrets if secret.name is not None],
        web_info=None,
        method_names=None,
        method_details=None,
        _inner_server_info=None,
    )
