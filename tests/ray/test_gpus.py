"""Requests for GPUs, CPUs and memory, on one made-up node with four A100."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import raymodal as modal
from raymodal import config
from raymodal.engine import current
from raymodal.exception import RemoteError

pytestmark = [pytest.mark.ray, pytest.mark.timeout(90)]


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """Two CPUs and four GPUs that do not exist."""
    from raymodal.engine.ray.engine import RayEngine

    config.reset()
    config.override(engine="ray", address="local", linger_s=0.5)
    engine = RayEngine(num_cpus=2, num_gpus=4, labels={"ray.io/accelerator-type": "A100"})
    current.set_engine(engine)
    yield engine
    current.shutdown()
    config.reset()


def visible(_: int = 0) -> list[str]:
    """The GPUs that this container sees."""
    return [device for device in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if device]


REQUESTS = {
    "one": ("A100", 1),
    "lower_case": ("a100", 1),
    "counted": ("A100:2", 2),
    "any": ("any", 1),
    "any_counted": ("any:3", 3),
    "a_size": ("A100-80GB", 1),
    "fallback": (["H100", "A100"], 1),
    "fallback_with_counts": (["H100:4", "A100:2"], 2),
    "fallback_to_any": (["H100", "any"], 1),
    "list_of_one": (["A100:4"], 4),
    "none": (None, 0),
}


def test_every_way_to_ask(run_app: Any) -> None:
    """Each function sees as many GPUs as it asked for; one that asked for none sees none."""
    app = modal.App("gpus")
    functions = {
        name: app.function(serialized=True, gpu=gpu, name=name, scaledown_window=2)(visible)  # type: ignore[arg-type]
        for name, (gpu, _) in REQUESTS.items()
    }
    run_app(app)

    seen = {name: len(set(function.remote())) for name, function in functions.items()}

    assert seen == {name: count for name, (_, count) in REQUESTS.items()}


def test_containers_do_not_share_gpus(run_app: Any) -> None:
    """Two containers at the same time."""
    app = modal.App("disjoint")

    with modal.Queue.ephemeral() as arrived:

        @app.function(serialized=True, gpu="A100:2", max_containers=2)
        def f(_: int, arrived: Any) -> list[str]:
            import time

            arrived.put(1)
            while arrived.len() < 2:
                time.sleep(0.05)
            return os.environ["CUDA_VISIBLE_DEVICES"].split(",")

        run_app(app)
        one, other = f.map(range(2), kwargs={"arrived": arrived})

    assert len({*one, *other}) == 4


@pytest.mark.parametrize("gpu", ["H100", "A100:8", ["L4", "T4:2"], "A100-40GB!"], ids=str)
def test_what_no_node_has_is_said_within_seconds(run_app: Any, gpu: Any) -> None:
    """With the function's name, what it asks for, what there is, and the way out; others are served."""
    app = modal.App("misfit")
    f = app.function(serialized=True, gpu=gpu, name="train")(visible)
    g = app.function(serialized=True, name="plain")(visible)
    run_app(app)

    with pytest.raises(RemoteError) as caught:
        f.remote()
    with pytest.raises(RemoteError):
        list(f.map(range(3)))

    text = str(caught.value)
    for part in ("'train'", str(gpu if isinstance(gpu, str) else gpu[0]), "4 GPU of type A100", "--gpu ignore"):
        assert part in text
    assert g.remote() == []


def test_gpu_ignore_runs_without(run_app: Any) -> None:
    """As `raymodal run --gpu ignore` says."""
    app = modal.App("ignored")
    f = app.function(serialized=True, gpu="H100:8")(visible)
    config.override(gpu="ignore")
    try:
        run_app(app)

        assert f.remote() == []
    finally:
        config.override(gpu=None)


def test_cpu_and_memory_are_cut_to_our_own_machine(run_app: Any) -> None:
    """Published programs ask for more than a laptop has: one warning for each function, and they run."""
    app = modal.App("cut")
    f = app.function(serialized=True, cpu=64, memory=10_000_000, name="f", scaledown_window=2)(visible)
    g = app.function(serialized=True, cpu=(0.5, 64), memory=(128, 10_000_000), name="g")(visible)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_app(app)

    assert f.remote() == []
    assert g.remote() == []
    [text] = [str(warning.message) for warning in caught]
    assert text.startswith("Function 'f': the request was cut to this machine, from 64 CPU to 2 and from 10000000 MiB")
