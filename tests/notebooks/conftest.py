"""``pytest tests/notebooks --store-notebooks`` executes the notebooks and stores them with their outputs."""

STORE = "--store-notebooks"


def pytest_addoption(parser):
    parser.addoption(STORE, action="store_true", help="write notebooks/*.ipynb anew from notebooks/*.py")
