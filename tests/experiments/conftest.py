import pytest

from amgt_fed.experiments.paper import PaperReport, reproduce


@pytest.fixture(scope="session")
def report() -> PaperReport:
    """The quick reproduction, computed once."""
    return reproduce(quick=True)
