"""The notebook runs from its first cell to its last, with this interpreter and nothing stored in it."""

import html
import json
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "embedded_study.ipynb"


class _ThisInterpreter(KernelSpecManager):
    """Offers one kernel: this interpreter, whatever kernels are registered on the machine."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name=kernel_name, language="python")


def _outputs(notebook: Any, mime: str) -> list[str]:
    found = [output.get("data", {}).get(mime) for cell in notebook.cells for output in cell.get("outputs", [])]
    return [content for content in found if content]


def test_no_outputs_are_stored() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


class _LocalKernel(AsyncKernelManager):
    """Starts that kernel."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, kernel_spec_manager=_ThisInterpreter())


@pytest.mark.slow
def test_it_runs_and_shows_partition_curves_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSA_NOTEBOOK_ROUNDS", "2")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook: Any = nbformat.reads(NOTEBOOK.read_text(encoding="utf-8"), as_version=4)  # type: ignore[no-untyped-call]
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, resources=resources, kernel_manager_class=_LocalKernel).execute()
    assert any("Hamburg" in picture for picture in _outputs(notebook, "image/svg+xml"))
    pages = _outputs(notebook, "text/html")
    assert any("Validation accuracy" in page and "<svg" in html.unescape(page) for page in pages)
    assert any("Completed, 2 of 2 rounds" in page for page in pages)
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "worst site" in printed
    assert not (tmp_path / "runs").exists()
