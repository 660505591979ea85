"""The seeded faults can be put in, and a sample of them is another one for each commit. `make mutations` tries them."""

from __future__ import annotations

import pytest
from mutations import run

EVERY = run.faults()


@pytest.mark.parametrize("fault", EVERY, ids=[each.name for each in EVERY])
def test_a_fault_can_be_put_in(fault: run.Fault) -> None:
    """Its text stands once in its file, and what becomes of that is Python; the tests that should see it exist."""
    changed = fault.applied((run.ROOT / fault.file).read_text())
    compile(changed, fault.file, "exec")
    assert fault.says.endswith(".")
    for test in fault.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}" in (run.ROOT / file).read_text(), test


def test_there_are_forty() -> None:
    """Each with a name of its own."""
    assert len({each.name for each in EVERY}) == len(EVERY) >= 40


def test_a_text_that_is_gone_is_told() -> None:
    """With the file, and how often it is there instead of once."""
    fault = run.Fault("a", "b.", "c.py", "    gone()\n", "", [])
    with pytest.raises(ValueError, match=r"c\.py: the text of the fault is not there any more: 'gone\(\)'"):
        fault.applied("x")
    with pytest.raises(ValueError, match="is there 2 times"):
        fault.applied("    gone()\n    gone()\n")


def test_every_fault_has_its_turn() -> None:
    """A commit always has the same eight; over many commits all are tried."""
    assert run.sample(EVERY, 8, "abc") == run.sample(EVERY, 8, "abc")
    samples = [run.sample(EVERY, 8, str(commit)) for commit in range(200)]
    assert {len({fault.name for fault in each}) for each in samples} == {8}
    assert {fault.name for each in samples for fault in each} == {each.name for each in EVERY}
