"""The page that authors of probes and tasks follow works as written: its blocks are installed and run."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest

from kc_interp.plugins import find, make_probe, make_task
from kc_interp.spec import TaskSpec
from tests.packages import install

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "probes" / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_page_on_writing_probes_works_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {block.split("\n")[0].removeprefix("# ").removesuffix(".py"): block for block in blocks("python")}
    assert list(modules) == ["my_probes", "test_my_probes", "test_adding"]
    modules["adding"] = (ROOT / "tests" / "adding.py").read_text()
    announced = [tomllib.loads(block)["project"]["entry-points"] for block in blocks("toml")]
    install(
        monkeypatch,
        tmp_path,
        "mine",
        modules=modules,
        probes=announced[0]["kc_interp.probes"],
        tasks=announced[1]["kc_interp.tasks"],
    )
    assert find("probes", "logit-lens").distribution == "mine"
    assert make_probe("logit-lens", {"items": 8}) and make_task(TaskSpec("adding"))
    ran = 0
    for name in ("test_my_probes", "test_adding"):
        for key, claim in vars(importlib.import_module(name)).items():
            if key.startswith("test_"):
                claim()
                ran += 1
    assert ran == 2
    for name in modules:
        sys.modules.pop(name, None)


def test_the_files_that_the_page_points_to_exist() -> None:
    for target in re.findall(r"\]\((?!http)(.*?)\)", PAGE.read_text(encoding="utf-8")):
        assert (PAGE.parent / target).exists(), target


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    for target in re.findall(r"\]\((?!http)(.*?)\)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_the_examples_in_docstrings_give_what_they_say() -> None:
    import doctest
    import pkgutil

    import kc_interp
    import kc_probes

    attempted = 0
    for package in (kc_interp, kc_probes):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                result = doctest.testmod(
                    importlib.import_module(found.name), optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
                )
                assert not result.failed, found.name
                attempted += result.attempted
    assert attempted >= 10
