"""In a real Jupyter kernel, whose loop runs while a cell does."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

pytestmark = [pytest.mark.ray]

CELLS = [
    """
import raymodal as modal
app = modal.App("notebook")
factor = 3

@app.function()
def f(x):
    print("in a container", x)
    return x * factor
""",
    """
with modal.enable_output(), app.run():
    print("one", f.remote(2))
    print("many", list(f.map(range(3))))
    f.for_each([7])
""",
    """
async with app.run():
    print("awaited", await f.remote.aio(7), [x async for x in f.map(range(2))])
""",
    """
factor = 10

@app.function()
def f(x):
    return x + factor

with app.run():
    print("again", f.remote(1))
""",
    """
with app.run():
    f.remote("a", "b")
""",
]


class _Kernels(AsyncKernelManager):
    """This interpreter's own kernel, whatever is installed on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="this", language="python")


def test_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocking calls and maps, `async with`, a function defined anew, an error; and no advice to write `await`."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    client = NotebookClient(notebook, timeout=60, allow_errors=True, kernel_manager_class=_Kernels)
    client.execute(cwd=str(tmp_path))

    said = ["".join(o.get("text", "") for o in cell.outputs) for cell in notebook.cells]
    errors = [[o.ename for o in cell.outputs if o.output_type == "error"] for cell in notebook.cells]
    assert errors == [[], [], [], [], ["TypeError"]], notebook.cells
    assert "one 6" in said[1]
    assert "many [0, 3, 6]" in said[1]
    assert "in a container 7" in said[1]
    assert "awaited 21 [0, 3]" in said[2]
    assert "again 11" in said[3]
    assert not any("Warning" in text for text in said), said
