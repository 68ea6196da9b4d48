"""Measures raymodal against what people use today: bare Ray, ActorPool, Ray's Pool, process pools.

`scenarios/` asks the questions and states their targets, `ours/` answers them with raymodal's public API and
`baselines/` with the others, each in its fastest honest form. `runner` interleaves rounds between persistent
child processes (`processes`, `child`), so that a machine that drifts drifts for all of them alike; `report` holds
the figures with their spread and the facts of the machine, `compare` puts two reports side by side, `plot` draws one.
`simulate/` stands apart: it runs no program, but replays arrivals against autoscaling policies in simulated time.

Run `raymodal bench list`, or `python -m benchmarks list` in a checkout. A wheel ships this folder as
`raymodal._benchmarks`, so imports inside it are relative. Nothing here imports Ray in the process that the user
starts: only children do, and simulations of Ray Serve's policy.
"""

# Tells `raymodal bench` that the top-level package named `benchmarks` which it found is this one.
IS_RAYMODAL_BENCHMARKS = True
