"""The demo in headless Chromium: the checks of `benchmarks/demo_browser.py`, for `pytest -m browser`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))  # behind the tests' own folder

from demo_browser import CHECKS
from demo_visit import NEAR, visiting

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def visit():
    with visiting() as visit:
        yield visit


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_check(visit, check):
    check(visit)


def test_a_request_to_another_host_would_be_seen(visit):
    with visit.page() as page:
        other = page.context.new_page()
        with pytest.raises(Exception, match="ERR_NAME_NOT_RESOLVED"):
            other.goto("http://name.invalid/")
    assert visit.outside() == ["name.invalid"]
    visit.requests = {url for url in visit.requests if "name.invalid" not in url}
    assert not visit.server.hosts() - {*NEAR, "0.0.0.0", ""}
