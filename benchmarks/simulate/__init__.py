"""Replays arrivals against autoscaling policies in simulated time: how long inputs wait, and what is kept idle for it.

`traces` and `functions` say when inputs arrive and how long they take, `world` is the containers and the queue (pure: no clock, no
I/O, the same for a seed), `policies`, `knative` and `serve` decide how many containers there should be, `runs` puts
them together, `report` and `picture` show what came of it. `ours` is `raymodal.logic.autoscale.decide` itself, `hybrid`
the same with `raymodal.logic.predict.Arrivals`, and `serve` Ray Serve's own function: none is a copy.
docs/simulator.md says what to run and what it shows.

What it leaves out: room and its sharing between functions (`logic.autoscale.admit`), the pause after a function's very
first container, and callers that report their demand on a logarithmic scale: here a policy knows it exactly.
"""
