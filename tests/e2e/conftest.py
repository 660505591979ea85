"""Stacks that the end-to-end tests share: starting one takes seconds, and nothing is kept from test to test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.raw import RawBackend
from support.stack import RunningStack


@pytest.fixture(scope="session")
def demo_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The stack with its demo backends and two workers."""
    directory = tmp_path_factory.mktemp("demo")
    with RunningStack(directory, "--workers", "2", "--envoy-concurrency", "2") as stack:
        yield stack
        assert stack.stop() == 0
        assert stack.findings() == []


@pytest.fixture(scope="session")
def shared_raw_backend() -> Iterator[RawBackend]:
    """The backend behind `raw_stack`, for the whole session."""
    with RawBackend() as backend:
        yield backend


@pytest.fixture(scope="session")
def raw_stack(tmp_path_factory: pytest.TempPathFactory, shared_raw_backend: RawBackend) -> Iterator[RunningStack]:
    """The stack before a backend that tests play themselves."""
    directory = tmp_path_factory.mktemp("raw")
    with RunningStack(directory, "--backend", shared_raw_backend.url, "--envoy-concurrency", "2") as stack:
        yield stack
        assert stack.stop() == 0
        assert stack.findings() == []
    shutil.rmtree(stack.data_dir)  # gigabytes


@pytest.fixture
def raw_backend(shared_raw_backend: RawBackend) -> Iterator[RawBackend]:
    """The backend behind `raw_stack`; a script that fails, fails the test."""
    shared_raw_backend.errors.clear()
    yield shared_raw_backend
    assert shared_raw_backend.errors == []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this directory needs the real Envoy."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.e2e)
