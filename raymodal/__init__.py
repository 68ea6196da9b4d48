"""raymodal: Modal's programming model on a Ray cluster that you own.

```python
import raymodal as modal

app = modal.App("example")

@app.function()
def square(x: int) -> int:
    return x * x

@app.local_entrypoint()
def main():
    print(list(square.map(range(10))))
```

`raymodal run example.py` runs it, and also programs that say `import modal`. Names are loaded when they are first used,
so that `import raymodal` costs next to nothing and never loads Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "1.6.4"
"""The version of Modal's SDK whose surface this is; the package's own is `raymodal.RAYMODAL_VERSION`."""
RAYMODAL_VERSION = "0.1.0"

if TYPE_CHECKING:
    from raymodal import billing, experimental, types
    from raymodal._tunnel import Tunnel, forward
    from raymodal.app import App
    from raymodal.client import Client
    from raymodal.cloud_bucket_mount import CloudBucketMount
    from raymodal.cls import Cls, parameter
    from raymodal.cluster import Cluster
    from raymodal.container.context import current_function_call_id, current_input_id, is_local
    from raymodal.dict import Dict
    from raymodal.environments import Environment
    from raymodal.exception import Error
    from raymodal.file_pattern_matcher import FilePatternMatcher
    from raymodal.functions import Function, FunctionCall
    from raymodal.image import Image
    from raymodal.interaction import interact
    from raymodal.network_file_system import NetworkFileSystem
    from raymodal.output import enable_output
    from raymodal.partial_function import (
        asgi_app,
        batched,
        clustered,
        concurrent,
        enter,
        exit,
        fastapi_endpoint,
        method,
        sessioned,
        web_endpoint,
        web_server,
        wsgi_app,
    )
    from raymodal.proxy import Proxy
    from raymodal.queue import Queue
    from raymodal.retries import Retries
    from raymodal.sandbox import Probe, Sandbox
    from raymodal.sandbox.sandbox import SandboxSnapshot
    from raymodal.schedule import Cron, Period
    from raymodal.scheduler_placement import SchedulerPlacement
    from raymodal.secret import Secret
    from raymodal.server import Server
    from raymodal.volume import Volume
    from raymodal.workspace import Workspace

__all__ = [
    "App",
    "Client",
    "CloudBucketMount",
    "Cls",
    "Cluster",
    "Cron",
    "Dict",
    "Environment",
    "Error",
    "FilePatternMatcher",
    "Function",
    "FunctionCall",
    "Image",
    "NetworkFileSystem",
    "Period",
    "Probe",
    "Proxy",
    "Queue",
    "Retries",
    "Sandbox",
    "SandboxSnapshot",
    "SchedulerPlacement",
    "Secret",
    "Server",
    "Tunnel",
    "Volume",
    "Workspace",
    "__version__",
    "asgi_app",
    "batched",
    "billing",
    "clustered",
    "concurrent",
    "current_function_call_id",
    "current_input_id",
    "enable_output",
    "enter",
    "exit",
    "experimental",
    "fastapi_endpoint",
    "forward",
    "interact",
    "is_local",
    "method",
    "parameter",
    "sessioned",
    "types",
    "web_endpoint",
    "web_server",
    "wsgi_app",
]

_HOMES = {
    "App": "app",
    "Client": "client",
    "CloudBucketMount": "cloud_bucket_mount",
    "Cls": "cls",
    "Cluster": "cluster",
    "Cron": "schedule",
    "Dict": "dict",
    "Environment": "environments",
    "Error": "exception",
    "FilePatternMatcher": "file_pattern_matcher",
    "Function": "functions",
    "FunctionCall": "functions",
    "Image": "image",
    "NetworkFileSystem": "network_file_system",
    "Period": "schedule",
    "Probe": "sandbox",
    "Proxy": "proxy",
    "Queue": "queue",
    "Retries": "retries",
    "Sandbox": "sandbox",
    "SandboxSnapshot": "sandbox.sandbox",
    "SchedulerPlacement": "scheduler_placement",
    "Secret": "secret",
    "Server": "server",
    "Tunnel": "_tunnel",
    "Volume": "volume",
    "Workspace": "workspace",
    "asgi_app": "partial_function",
    "batched": "partial_function",
    "clustered": "partial_function",
    "concurrent": "partial_function",
    "current_function_call_id": "container.context",
    "current_input_id": "container.context",
    "enable_output": "output",
    "enter": "partial_function",
    "exit": "partial_function",
    "fastapi_endpoint": "partial_function",
    "forward": "_tunnel",
    "interact": "interaction",
    "is_local": "container.context",
    "method": "partial_function",
    "parameter": "cls",
    "sessioned": "partial_function",
    "web_endpoint": "partial_function",
    "web_server": "partial_function",
    "wsgi_app": "partial_function",
}
# Modules that `import modal` alone makes reachable; `modal.runner` and `modal.serving` need an import of their own.
_MODULES = frozenset(
    {
        "app",
        "billing",
        "call_graph",
        "client",
        "cloud_bucket_mount",
        "cls",
        "cluster",
        "config",
        "container_process",
        "dict",
        "environments",
        "exception",
        "experimental",
        "file_pattern_matcher",
        "functions",
        "image",
        "io_streams",
        "mount",
        "network_file_system",
        "object",
        "output",
        "partial_function",
        "proxy",
        "queue",
        "retries",
        "sandbox",
        "schedule",
        "scheduler_placement",
        "secret",
        "server",
        "stream_type",
        "types",
        "volume",
        "workspace",
    }
)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is not None:
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        from raymodal._old import old_name

        # Not kept: strict mode may be switched, and a warning belongs to every place that uses an old name.
        return old_name(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
