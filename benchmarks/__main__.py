"""`python -m benchmarks ...` is `raymodal bench ...`."""

import sys

from raymodal.cli.bench import app

if __name__ == "__main__":
    sys.exit(app(prog_name=f"python -m {__package__}"))
