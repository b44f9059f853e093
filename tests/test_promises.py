"""Every installed probe and task keeps the promises that a third-party one is held to."""

from __future__ import annotations

import pytest

from kc_interp import plugins
from kc_interp.probe import Subject
from kc_interp.testing import check_probe, check_task, small_subject


@pytest.fixture(scope="module")
def subject() -> Subject:
    return small_subject()


@pytest.mark.parametrize("name", [plugin.name for plugin in plugins.installed("probes")])
def test_an_installed_probe_keeps_its_promises(name: str, subject: Subject) -> None:
    check_probe(plugins.make_probe(name), subject)


@pytest.mark.parametrize("name", [plugin.name for plugin in plugins.installed("tasks")])
def test_an_installed_task_keeps_its_promises(name: str) -> None:
    check_task(plugins.find("tasks", name).load()())
