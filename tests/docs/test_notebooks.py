from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]


NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.slow  # building the site executes them all, too
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_from_top_to_bottom(notebook):
    document = nbformat.read(notebook, as_version=4)
    executor = nbclient.NotebookClient(
        document, timeout=600, kernel_name="python3", resources={"metadata": {"path": ROOT}}
    )
    executor.execute()  # raises CellExecutionError with the cell's traceback
    images = [out for cell in document.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert images, "the notebook draws its figures"
