"""The import name `modal`, answered by raymodal: for programs that are started as `python program.py`.

This file is only a door. It installs raymodal's import hook, which also answers `import modal.exception` and the like,
and puts raymodal in its own place.
"""

import sys

import raymodal
from raymodal import _alias

_alias.install()
sys.modules[__name__] = raymodal
