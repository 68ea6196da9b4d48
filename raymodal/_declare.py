"""From a decorator's parameters to the fields of a `FunctionSpec`.

Everything that a user can get wrong in a decorator is found here, with the exception types of Modal 1.6.4, or left for
the moment the app is loaded where Modal leaves it (`plan.app.check_resources`). Inner code does not check again.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from raymodal._warn import deprecated, is_strict
from raymodal.exception import DeprecationError, InvalidError
from raymodal.retries import Retries
from raymodal.spec.function import FunctionSpec, GpuRequest, RetryPolicy, ScheduleSpec
from raymodal.spec.storage import BucketSpec, SecretSpec, VolumeSpec

if TYPE_CHECKING:
    from raymodal.image import Image
    from raymodal.secret import Secret

MAX_SCALEDOWN_S = 3600
MIN_SCALEDOWN_S = 2

# Old name -> (today's parameter or None, today's spelling as the message says it).
RENAMED: dict[str, tuple[str | None, str]] = {
    "keep_warm": ("min_containers", "min_containers="),
    "concurrency_limit": ("max_containers", "max_containers="),
    "container_idle_timeout": ("scaledown_window", "scaledown_window="),
    "allow_concurrent_inputs": (None, "@modal.concurrent(max_inputs=...)"),
}
# Of older releases; 1.6.4 does not know it at all.
GONE: dict[str, tuple[str | None, str]] = {
    "_experimental_buffer_containers": ("buffer_containers", "buffer_containers=")
}
# No release had these two; documents about Modal use them all the same.
MISNAMED: dict[str, tuple[str | None, str]] = {
    "max_concurrent_inputs": (None, "@modal.concurrent(max_inputs=...)"),
    "target_concurrent_inputs": (None, "@modal.concurrent(target_inputs=...)"),
}


class Concurrency:
    """Input concurrency that came by an old parameter instead of `@modal.concurrent`."""

    max_inputs: int | None = None
    target_inputs: int | None = None


def take_old_names(decorator: str, old: dict[str, Any], params: dict[str, Any], *, stacklevel: int = 3) -> Concurrency:
    """Move what was given under old names to today's parameters, with one warning for all of them.

    Args:
        decorator: name for messages, such as `App.function`.
        old: what arrived as `**kwargs`.
        params: today's parameters; written to.

    Raises:
        TypeError: a name that no release had, or the same thing given twice.
        DeprecationError: strict mode, and a name that 1.6.4 refuses so.
    """
    found = Concurrency()
    if not old:
        return found
    strict = is_strict()
    if strict:
        for name, (_, today) in RENAMED.items():
            if name in old:
                raise DeprecationError(f"{name}= of {decorator} has been replaced by {today}")
    accepted = {} if strict else RENAMED | GONE | MISNAMED
    for name in old:
        if name not in accepted:
            raise TypeError(f"{decorator}() got an unexpected keyword argument {name!r}")
    said = []
    for name, value in old.items():
        target, today = accepted[name]
        said.append(f"{name}= is now {today}")
        if target is not None:
            if params.get(target) is not None and value is not None:
                raise TypeError(f"{decorator}() got both {name}= and {target}=, which mean the same; keep {target}=")
            if params.get(target) is None:
                params[target] = value
        elif name == "target_concurrent_inputs":
            found.target_inputs = value
        else:
            found.max_inputs = value
    if params.get("scaledown_window") is not None and "container_idle_timeout" in old:
        # Older releases took any number of seconds.
        params["scaledown_window"] = min(max(params["scaledown_window"], MIN_SCALEDOWN_S), MAX_SCALEDOWN_S)
    if found.target_inputs is not None and found.max_inputs is None:
        found.max_inputs = found.target_inputs
    deprecated(f"{decorator}: {'; '.join(said)}.", stacklevel=stacklevel)
    return found


# ---------------------------------------------------------------------------------------------------------- one by one


def env_values(env: Any, what: str = "env=") -> dict[str, str]:
    """Check a dictionary of variables and drop those that are None.

    Raises:
        InvalidError: it is not a `dict[str, str | None]`.
    """
    if not isinstance(env, dict):
        raise InvalidError(f"{what} must be a dict[str, str | None], not {type(env).__name__}")
    for key, value in env.items():
        if not isinstance(key, str):
            raise InvalidError(
                f"{what} must be a dict[str, str | None]; the key {key!r} is of type {type(key).__name__}"
            )
        if value is not None and not isinstance(value, str):
            raise InvalidError(
                f"{what} must be a dict[str, str | None]; the value of {key!r} is of type {type(value).__name__}. Use str(...)."
            )
    return {key: value for key, value in env.items() if value is not None}


def parse_gpu(gpu: Any) -> tuple[GpuRequest, ...]:
    """`"A100"`, `"h100:8"`, a list of such strings in order of preference, or an old `modal.gpu` object.

    Raises:
        InvalidError: not a string, or a count that is not a number.

    Example:
        >>> [str(g) for g in parse_gpu(["h100:2", "a100"])]
        ['H100:2', 'A100']
    """
    if not gpu:  # any empty value means none, as in Modal: programs write `gpu="T4" if FAST else False`
        return ()
    return tuple(_parse_one_gpu(one) for one in gpu) if isinstance(gpu, list) else (_parse_one_gpu(gpu),)


def _parse_one_gpu(gpu: Any) -> GpuRequest:
    gpu = getattr(gpu, "_as_gpu_string", gpu)
    if not isinstance(gpu, str):
        raise InvalidError(f"gpu={gpu!r} must be a string such as 'A100' or 'H100:8', or a list of such strings")
    kind, colon, count = gpu.partition(":")
    if not colon:
        return GpuRequest(type=kind.upper())
    try:
        n = int(count)
    except ValueError:
        raise InvalidError(f"gpu={gpu!r}: the count {count!r} is not an integer; write for example 'H100:2'") from None
    if n < 0:
        raise ValueError(f"gpu={gpu!r}: the count is negative")
    return GpuRequest(type=kind.upper(), count=n)


def parse_request(name: str, value: Any, kinds: tuple[type, ...]) -> tuple[Any, Any]:
    """`request` or `(request, limit)`. Values of other types count as not given, as in Modal, with a warning.

    Returns:
        request and limit; None where left open.
    """
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(_is_number(part, kinds) for part in value):
        return value[0], value[1]
    if value is None or _is_number(value, kinds):
        return value, None
    if not is_strict():
        import warnings

        warnings.warn(
            f"{name}={value!r} is not {' or '.join(kind.__name__ for kind in kinds)}, or a pair of them, and has no effect "
            "(nor has it in Modal).",
            UserWarning,
            stacklevel=5,
        )
    return None, None


def _is_number(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def parse_retries(retries: Any, tag: str) -> RetryPolicy | None:
    """An int, a `Retries` or None.

    Raises:
        TypeError: a bool.
        InvalidError: another type, or a negative number.
    """
    if retries is None:
        return None
    if isinstance(retries, bool):
        raise TypeError(f"retries={retries!r} of {tag!r} is a bool; give a number")
    if isinstance(retries, int):
        if retries < 0:
            raise InvalidError(f"retries={retries} of {tag!r} is negative; use 0 for none")
        return RetryPolicy(max_retries=retries)
    if isinstance(retries, Retries):
        return retries._spec()
    raise InvalidError(f"retries= of {tag!r} must be an integer or modal.Retries, not {type(retries).__name__}")


def _count(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r} is not an int")
    if value < 0:
        raise ValueError(f"{name}={value} is negative")


def check_scaling(
    min_containers: Any = None,
    max_containers: Any = None,
    buffer_containers: Any = None,
    scaledown_window: Any = None,
) -> None:
    """Check the autoscaler's bounds.

    Raises:
        InvalidError, TypeError, ValueError: as Modal does for each.
    """
    if min_containers is not None and not isinstance(min_containers, int):
        raise InvalidError(f"min_containers must be an int, not {type(min_containers).__name__}")
    _count("min_containers", min_containers)
    _count("max_containers", max_containers)
    _count("buffer_containers", buffer_containers)
    if min_containers is not None and max_containers is not None and min_containers > max_containers:
        raise InvalidError(f"min_containers={min_containers} is greater than max_containers={max_containers}")
    if scaledown_window is None:
        return
    if isinstance(scaledown_window, bool) or not isinstance(scaledown_window, int):
        raise TypeError(f"scaledown_window={scaledown_window!r} is not a whole number of seconds")
    if not MIN_SCALEDOWN_S <= scaledown_window <= MAX_SCALEDOWN_S:
        raise InvalidError(
            f"scaledown_window={scaledown_window} must be between {MIN_SCALEDOWN_S} and {MAX_SCALEDOWN_S} seconds"
        )


def mount_path(path: str | PurePosixPath, what: str) -> str:
    """The canonical form of an absolute path that something may be mounted at.

    Raises:
        InvalidError: relative, with `..`, or one of `/`, `/root`, `/tmp`.
    """
    given = PurePosixPath(path)
    canonical = given.as_posix()
    if not given.is_absolute() or ".." in given.parts:
        raise InvalidError(f"{what} path {str(path)!r} must be absolute and without '..'")
    if canonical in ("/", "/root", "/tmp"):
        raise InvalidError(f"{what} cannot be mounted at {canonical!r}; use a folder of its own, such as '/data'")
    return canonical


def parse_volumes(volumes: Any) -> tuple[tuple[VolumeSpec, ...], tuple[BucketSpec, ...]]:
    """A dictionary of path -> Volume or CloudBucketMount.

    Raises:
        InvalidError: a bad path or value, or one Volume at two paths.
        ValueError: a bad bucket prefix.
    """
    if not volumes:
        return (), ()
    from raymodal.cloud_bucket_mount import CloudBucketMount
    from raymodal.volume import Volume

    if not isinstance(volumes, Mapping):
        raise InvalidError(f"volumes= must be a dict of path -> Volume, not {type(volumes).__name__}")
    found: list[VolumeSpec] = []
    buckets: list[BucketSpec] = []
    seen: dict[int, str] = {}
    for path, value in volumes.items():
        canonical = mount_path(path, "Volume")
        if isinstance(value, CloudBucketMount):
            buckets.append(value._spec(canonical))
        elif isinstance(value, Volume):
            if id(value) in seen:
                raise InvalidError(
                    f"The same Volume is mounted at {seen[id(value)]!r} and {canonical!r}; once is enough"
                )
            seen[id(value)] = canonical
            found.append(value._spec(canonical))
        else:
            raise InvalidError(f"The value at {str(path)!r} of volumes= is a {type(value).__name__}, not a Volume")
    return tuple(found), tuple(buckets)


def parse_network_file_systems(mounts: Any) -> tuple[str, ...]:
    """Paths of deprecated storage; recorded only.

    Raises:
        InvalidError: a bad path or value.
    """
    if not mounts:
        return ()
    from raymodal.network_file_system import NetworkFileSystem

    if not isinstance(mounts, Mapping):
        raise InvalidError(f"network_file_systems= must be a dict, not {type(mounts).__name__}")
    paths = []
    for path, value in mounts.items():
        canonical = mount_path(path, "NetworkFileSystem")
        if not isinstance(value, NetworkFileSystem):
            raise InvalidError(f"The value at {str(path)!r} of network_file_systems= is a {type(value).__name__}")
        paths.append(canonical)
    return tuple(paths)


def parse_schedule(schedule: Any, raw_f: Callable[..., Any]) -> ScheduleSpec | None:
    """A `Cron` or `Period`, on a function that can be called without arguments.

    Raises:
        AttributeError: not a schedule.
        InvalidError: the function needs arguments.
    """
    if schedule is None:
        return None
    spec: ScheduleSpec = schedule._spec
    if not is_nullary(raw_f):
        raise InvalidError(
            f"Function {raw_f.__name__!r} has a schedule, so it must be callable without arguments; give its parameters defaults"
        )
    return spec


def is_nullary(raw_f: Callable[..., Any], *, defaults_count: bool = False) -> bool:
    """Whether `raw_f` can be called without arguments (with `defaults_count`: has no parameters at all)."""
    for parameter in inspect.signature(raw_f).parameters.values():
        if defaults_count:
            return False
        if parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            return False
    return True


def check_max_inputs(max_inputs: Any) -> bool:
    """The older spelling of `single_use_containers`; True if it asks for them.

    Raises:
        InvalidError: anything but 1.
    """
    if max_inputs is None:
        return False
    if not isinstance(max_inputs, int):
        raise InvalidError(f"max_inputs must be an int, not {type(max_inputs).__name__}")
    if max_inputs <= 0:
        raise InvalidError(f"max_inputs={max_inputs} must be positive")
    if max_inputs > 1:
        raise InvalidError(
            f"max_inputs={max_inputs}: only 1 means anything, and is now written single_use_containers=True. "
            "For several inputs at once, use @modal.concurrent(max_inputs=...)."
        )
    deprecated("max_inputs=1 is now single_use_containers=True.", stacklevel=5)
    return True


def check_options(
    *, gpu: Any, env: Any, volumes: Any, retries: Any, scaledown_window: Any, tag: str = "with_options"
) -> None:
    """What `with_options` checks before anything runs."""
    if isinstance(gpu, list):
        raise InvalidError("with_options(gpu=...) takes one string, not a list")
    parse_gpu(gpu)
    if env:
        env_values(env)
    parse_volumes(volumes)
    parse_retries(retries, tag)
    check_scaling(scaledown_window=scaledown_window or None)


def option_fields(params: Mapping[str, Any], tag: str = "with_options") -> dict[str, Any]:
    """Fields of a `FunctionSpec` that `with_options` changes. What is empty or zero was not given, as in Modal.

    Raises:
        InvalidError, TypeError, ValueError: an option is wrong.
    """
    get = params.get
    check_options(
        gpu=get("gpu"),
        env=get("env"),
        volumes=get("volumes"),
        retries=get("retries"),
        scaledown_window=get("scaledown_window"),
        tag=tag,
    )
    found: dict[str, Any] = {}
    for name, kinds, fields in (
        ("cpu", (int, float), ("cpu", "cpu_limit")),
        ("memory", (int,), ("memory_mib", "memory_limit_mib")),
    ):
        if get(name):
            found |= zip(fields, parse_request(name, get(name), kinds), strict=True)
    if get("gpu"):
        found["gpu"] = parse_gpu(get("gpu"))
    if get("secrets") or get("env"):
        # Both together replace what the class has, so that no variable of it is left.
        found["secrets"] = tuple(_secret_specs(list(_collection(get("secrets")))))
        found["env"] = env_values(get("env") or {})
    volumes, buckets = parse_volumes(get("volumes"))
    region = get("region")
    found |= {
        "volumes": volumes,
        "buckets": buckets,
        "retries": parse_retries(get("retries") or None, tag),
        "max_containers": get("max_containers"),
        "buffer_containers": get("buffer_containers"),
        "scaledown_window": get("scaledown_window"),
        "timeout_s": get("timeout"),
        "region": () if not region else (region,) if isinstance(region, str) else tuple(region),
        "cloud": get("cloud"),
        "routing_region": get("routing_region"),
    }
    keep = ("secrets", "env", "cpu_limit", "memory_limit_mib")  # set together with what they belong to
    return {name: value for name, value in found.items() if value or name in keep}


def concurrency_fields(max_inputs: int, target_inputs: int | None) -> dict[str, Any]:
    """Fields of a `FunctionSpec` that `with_concurrency` changes.

    Raises:
        InvalidError: the target is above the maximum or not an integer.
    """
    from raymodal.partial_function import check_concurrency

    check_concurrency(max_inputs, target_inputs)
    fields = {"max_concurrent_inputs": max_inputs, "target_concurrent_inputs": target_inputs}
    return {name: value for name, value in fields.items() if value}


# ------------------------------------------------------------------------------------------------------------ together


def spec_fields(
    tag: str,
    params: Mapping[str, Any],
    *,
    image: Image | None,
    app_secrets: Sequence[Secret] = (),
    app_volumes: Mapping[Any, Any] | None = None,
    app_include_source: bool = True,
) -> dict[str, Any]:
    """Fields of a `FunctionSpec` from the parameters of `@app.function`, `@app.cls` or `@app.server`.

    Raises:
        InvalidError, TypeError, ValueError: a parameter is wrong; see the functions above.
    """
    from raymodal.image import Image as ImageHandle

    get = params.get
    if image is not None and not isinstance(image, ImageHandle):
        raise InvalidError(f"image= must be a modal.Image, not {type(image).__name__}")
    env = env_values(params["env"]) if get("env") is not None else {}
    gpu = parse_gpu(get("gpu"))
    if "timeout" in params and params["timeout"] is None:
        raise InvalidError("timeout=None is not a time limit; give seconds, up to 86400")
    check_scaling(get("min_containers"), get("max_containers"), get("buffer_containers"), get("scaledown_window"))
    volumes, buckets = parse_volumes({**(app_volumes or {}), **(get("volumes") or {})})
    cpu, cpu_limit = parse_request("cpu", get("cpu"), (int, float))
    memory, memory_limit = parse_request("memory", get("memory"), (int,))
    region = get("region") if "region" in params else get("compute_region")
    options = get("experimental_options")
    return {
        "cpu": cpu,
        "cpu_limit": cpu_limit,
        "memory_mib": memory,
        "memory_limit_mib": memory_limit,
        "gpu": gpu,
        "ephemeral_disk_mib": get("ephemeral_disk"),
        "min_containers": get("min_containers"),
        "max_containers": get("max_containers") or None,
        "buffer_containers": get("buffer_containers"),
        "scaledown_window": get("scaledown_window"),
        "single_use_containers": bool(get("single_use_containers")) or check_max_inputs(get("max_inputs")),
        "retries": parse_retries(get("retries"), tag),
        "timeout_s": get("timeout", 300),
        "startup_timeout_s": get("startup_timeout"),
        "image": None if image is None else image._spec,
        "env": env,
        "secrets": tuple(_secret_specs([*app_secrets, *_collection(get("secrets"))])),
        "volumes": volumes,
        "buckets": buckets,
        "network_file_systems": parse_network_file_systems(get("network_file_systems")),
        "region": () if region is None else (region,) if isinstance(region, str) else tuple(region),
        "routing_region": get("routing_region"),
        "cloud": get("cloud"),
        "proxy": None if get("proxy") is None else repr(get("proxy")),
        "nonpreemptible": bool(get("nonpreemptible")),
        "block_network": bool(get("block_network")),
        "restrict_modal_access": bool(get("restrict_modal_access")),
        "restrict_output": bool(get("_experimental_restrict_output")),
        "i6pn": get("i6pn"),
        "include_source": app_include_source if get("include_source") is None else bool(get("include_source")),
        "enable_memory_snapshot": bool(get("enable_memory_snapshot")),
        "experimental_options": {} if options is None else {key: str(value) for key, value in options.items()},
    }


def _collection(secrets: Collection[Any] | None) -> Collection[Any]:
    if secrets is None:
        return ()
    return list(secrets)


def _secret_specs(secrets: Sequence[Any]) -> list[SecretSpec]:
    from raymodal.secret import Secret

    return [
        secret._spec if isinstance(secret, Secret) else SecretSpec(kind="invalid", name=repr(secret))
        for secret in secrets
    ]


def make_spec(fields: Mapping[str, Any]) -> FunctionSpec:
    """The spec, with what its types refuse said in Modal's words.

    Raises:
        InvalidError: names the first wrong parameter.
    """
    try:
        return FunctionSpec(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise InvalidError(f"{_PARAMETER_OF.get(name, name)}={first['input']!r}: {first['msg']}") from None


_PARAMETER_OF = {
    "timeout_s": "timeout",
    "startup_timeout_s": "startup_timeout",
    "memory_mib": "memory",
    "ephemeral_disk_mib": "ephemeral_disk",
}


class Origin:
    """Where a user's function or class stands, and how a container gets it."""

    def __init__(self, obj: Any, *, serialized: bool, decorator: str) -> None:
        """Look at `obj`.

        Raises:
            InvalidError: a method, or nested in a function without `serialized=True`.
            AttributeError: not a function.
        """
        qualname: str = obj.__qualname__
        scope, _, name = qualname.rpartition("<locals>.")
        if not isinstance(obj, type) and "." in name:
            raise InvalidError(
                f"{decorator} is used on the method {qualname!r}. Use @app.cls() on the class and @modal.method() on the method."
            )
        if scope and not serialized:
            raise InvalidError(
                f"{decorator} is used on {qualname!r}, which is defined inside a function, where a container cannot import it. "
                "Move it to module level, use functools.wraps in the decorators beneath, or pass serialized=True."
            )
        self.qualname = qualname
        self.module: str | None = obj.__module__
        self.file: str | None = None
        module = sys.modules.get(obj.__module__) if obj.__module__ else None
        file = getattr(module, "__file__", None)
        if file is not None:
            self.file = str(Path(file).resolve())
        if self.module == "__main__":
            spec = getattr(module, "__spec__", None)
            if spec is not None and spec.name and spec.name != "__main__":
                self.module = spec.name.removesuffix(".__main__") if spec.name.endswith(".__main__") else spec.name
                if spec.name.endswith(".__main__"):
                    self.module = spec.name
            elif self.file is not None:
                self.module = Path(self.file).stem
            else:
                self.module = None
        self.by_value = serialized or self.file is None

    def fields(self) -> dict[str, Any]:
        """As fields of a `FunctionSpec`."""
        return {"module": self.module, "qualname": self.qualname, "file": self.file, "by_value": self.by_value}
