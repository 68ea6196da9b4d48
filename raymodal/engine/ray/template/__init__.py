"""Ray workers by fork: on nodes that raymodal starts, a new worker is a copy of a process that has imported everything.

A plain Ray worker is a fresh interpreter that imports Ray: 0.44 s. Here Ray's worker command runs `launcher.py` instead,
which asks the node's *template* (`server.py`: Ray and raymodal's container runtime imported, one thread, no connection)
to fork, and then ends; the child runs Ray's own `default_worker.py` and is a full Ray worker: 0.08 s, and what the
template has loaded is shared memory.

Three rules keep it safe:

- **In doubt, the plain way.** Whatever the launcher cannot vouch for (a runtime environment with its own interpreter,
  variables that are read when a library is loaded, a template that does not answer) starts as Ray itself would start
  it. The worst case is Ray's own speed, and `raymodal cluster status` says how often and why.
- **One worker, not two.** The child waits for the launcher's word before it becomes a worker. A launcher that has given
  up never says it.
- **The template stays a template.** It never connects to anything, checks that it has one thread before each fork, and
  ends with its raylet, taking what is left of its children along.

The launcher is compiled and runs without `site`: 10 ms. The template holds a lock from before its first import, so that
"booting" and "dead" are told apart without a pid: a launcher that finds it free starts another one (five times, then the
node does without), and kills one that does not answer. What a forked worker shares with a plain one (signals, groups,
limits, OOM score, arguments, path, environment), and what must differ (all that is random or unique), is compared by
`tests/ray/test_template.py`. `gc.freeze` keeps the collector off the shared pages.

All state is a private folder per raylet, `<session>/template-<pid>/`: the socket `s`, the lock that the template holds
while it lives (`lock`), a line for each start (`starts`), and the reason why this node does without (`refused`).
"""
