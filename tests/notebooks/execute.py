"""Executes a notebook in a kernel of its own and stores it."""

from pathlib import Path

import jupytext
import nbclient
import nbformat

CELL_SECONDS = 120
STRICT = "import warnings; warnings.simplefilter('error'); warnings.filterwarnings('default', module='ipykernel')"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(source: Path) -> nbformat.NotebookNode:
    """The notebook of a ``.py`` source with its outputs; a warning in a cell is an error."""
    notebook = jupytext.read(source)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT))
    where = {"metadata": {"path": str(source.parent)}}
    options = {"timeout": CELL_SECONDS, "record_timing": False, "coalesce_streams": True, "resources": where}
    nbclient.NotebookClient(notebook, **options).execute()
    del notebook.cells[0]
    return notebook


def store(notebook: nbformat.NotebookNode, source: Path) -> None:
    """Writes the ``.ipynb`` beside the source, without what would differ from one execution to the next."""
    notebook.metadata = nbformat.from_dict(METADATA)
    code = (cell for cell in notebook.cells if cell.cell_type == "code")
    for count, cell in enumerate(code, start=1):
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"
    nbformat.validate(notebook)
    nbformat.write(notebook, source.with_suffix(".ipynb"))


def stored(source: Path) -> nbformat.NotebookNode:
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)
