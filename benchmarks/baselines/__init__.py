"""The questions of `scenarios/` asked of bare Ray and of the standard library.

Each function is one contender in its fastest honest form; `--show-code` prints it.
"""
