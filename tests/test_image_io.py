"""Reading images of every kind: the nasty suite, statuses, limits, and what is the same as before."""

import pytest
from nasty import write_nasty_suite

from mirage_hf.image_io import read_image


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_nasty_suite(tmp_path_factory.mktemp("nasty"))


def test_suite(suite):
    wrong = []
    for case in suite:
        reading = read_image(case.source)
        facts = {name: getattr(reading, name) for name in case.facts if name != "pixel"}
        expected = {name: value for name, value in case.facts.items() if name != "pixel"}
        if reading.status != case.status or facts != expected:
            wrong.append((case.name, str(reading.status), reading.error, facts, case.status, expected))
        elif "pixel" in case.facts:
            pixel = reading.image.getpixel((0, 0))
            if max(abs(a - b) for a, b in zip(pixel, case.facts["pixel"], strict=True)) > 6:
                wrong.append((case.name, pixel, case.facts["pixel"]))
    assert not wrong, "\n".join(map(str, wrong))
