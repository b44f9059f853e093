"""`kc-interp figures` as its user meets it: what it reads, what it writes, what it says; and the page in Chromium."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kc_interp import gallery
from kc_interp.cli.records import find
from kc_interp.errors import KCInterpError
from kc_interp.gallery import stills
from kc_interp.records import Store
from kc_interp.scaling.analysis import analyse
from kc_interp.scaling.law_report import laws
from kc_interp.scaling.study import load
from tests.test_gallery import HOSTILE, hostile_analysis, records_of
from tests.test_report import Page
from tests.test_report_browser import Opened, browser  # noqa: F401  (a fixture)

TOML = """
name = "synthetic"
title = "Does joint training help SUM?"
seeds = 4
probes = ["embedding-geometry"]
[base.train]
steps = 8000
[grid]
d_model = [8, 12, 16, 24, 32, 48, 64]
init = ["narrow", "wide"]
[[arms]]
name = "sum"
operations = ["SUM"]
[[arms]]
name = "three"
operations = ["MAX", "MED", "SUM"]
[criterion]
component = "SUM"
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study with a store that holds all its runs."""
    path = tmp_path / "study.toml"
    path.write_text(TOML, encoding="utf-8")
    asked = load(path)
    with Store.open(tmp_path / "records.sqlite", write=True) as store:
        store.begin(asked.name, asked.settings)
        store.add(records_of(asked, probes=True))
    return path


def run(study: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "kc_interp", "figures", str(study), *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "CI": "1"})


def test_json_lists_every_file_and_figure(study: Path) -> None:
    done = run(study, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    page = study.parent / "figures" / "index.html"
    assert said["page"] == str(page) and said["files"] == [str(page)] and page.is_file()
    assert [one["name"] for one in said["figures"]] == list(gallery.NAMES)
    assert (said["runs"], said["asked"], said["complete"]) == (112, 112, True)
    by_name = {one["name"]: one for one in said["figures"]}
    assert by_name["laws"]["plots"] == 0 and "a law needs at least 4" in by_name["laws"]["reason"]
    assert by_name["time-to-learn"] == {
        "name": "time-to-learn", "title": "Steps until a run learned SUM, against size", "plots": 2, "reason": None,
    }  # fmt: skip


def test_a_fresh_clone_is_drawn_from_its_json_lines_alike(study: Path, tmp_path: Path) -> None:
    store = tmp_path / "records.sqlite"
    asked = load(study)
    from_store = find(asked, study, None, None)
    with Store.open(store) as opened:
        store.with_suffix(".jsonl").write_text(opened.export(asked.name), encoding="utf-8")
    store.unlink()
    from_lines = find(asked, study, None, None)
    named = find(asked, study, None, store.with_suffix(".jsonl"))
    drawn = [
        [one.dumps() for one in gallery.figures(analyse(asked, found.records))]
        for found in (from_store, from_lines, named)
    ]
    assert drawn[0] == drawn[1] == drawn[2] and from_lines.notes == ()


def test_only_draws_what_is_named_and_says_what_it_leaves_to_read(study: Path, tmp_path: Path) -> None:
    done = run(study, "--only", "thresholds", "--only", "synergy", "--out", str(tmp_path / "there"), "--no-open")
    assert done.returncode == 0, done.stderr
    assert "page: " in done.stdout and "synthetic: 112 runs" in done.stdout
    page = Page((tmp_path / "there" / "index.html").read_text(encoding="utf-8"))
    sections = [attributes.get("id") for tag, attributes in page.elements if tag == "section"]
    assert sections == ["study", "thresholds", "synergy", "provenance"]


def test_a_study_without_records_is_refused(study: Path, tmp_path: Path) -> None:
    (tmp_path / "records.sqlite").unlink()
    done = run(study, "--no-open")
    assert done.returncode == 1 and "kc-interp sweep makes them" in done.stderr and "Traceback" not in done.stderr


def test_a_study_that_has_changed_since_is_drawn_with_a_note(study: Path) -> None:
    study.write_text(TOML.replace("seeds = 4", "seeds = 6"), encoding="utf-8")
    asked = load(study)
    found = find(asked, study, None, None)
    assert found.changed == "seeds was 4, is 6" and found.changed in found.notes[0]
    analysis = analyse(asked, found.records)
    page = gallery.render(analysis, gallery.figures(analysis, (), ["thresholds"]), found.notes)
    assert "Partial: 112 of 168 runs." in page and found.notes[0] in page


def test_curves_that_cannot_be_read_cost_the_curves_alone(study: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "records.files" / "curves").iterdir():
        path.unlink()
    found = find(load(study), study, None, None)
    assert len(found.records) == 112 and "learning curves and times to learn are left out" in found.notes[0]


def test_still_images_without_kaleido_name_the_extra_and_the_browser(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(KCInterpError, match=re.escape("pip install 'kc-interp[figures]'") + ".*apt install chromium"):
        list(stills.write_stills([], study.parent, ["svg"]))


def test_still_images_are_named_by_figure_and_the_same_each_time(study: Path, tmp_path: Path) -> None:
    pytest.importorskip("kaleido", reason="the extra 'figures' is not installed")
    asked = load(study)
    drawn = gallery.figures(analyse(asked, records_of(asked)), (), ["thresholds"])
    try:
        first, png = stills.write_stills(drawn, tmp_path, ["svg", "png"], label="partial: 1 of 2 runs")
    except KCInterpError as error:
        pytest.skip(str(error))
    text = first.read_text(encoding="utf-8")
    assert (first.name, png.name) == ("thresholds.svg", "thresholds.png")
    assert 'width="680"' in text and "partial: 1 of 2 runs" in text
    assert min(map(float, re.findall(r"font-size: ([\d.]+)px", text))) >= 12
    (again,) = stills.write_stills(drawn, tmp_path, ["svg"], label="partial: 1 of 2 runs")
    assert again.read_text(encoding="utf-8") == text


def test_svg_names_that_plotly_draws_at_random_are_replaced() -> None:
    svg = '<svg><defs id="defs-1c1010"><clipPath id="clip1c1010xy"/></defs><g class="trace ab trace0a1b2c" clip-path="url(#clip1c1010xy)"/></svg>'
    assert stills.same_names(svg) == stills.same_names(svg.replace("1c1010", "ab12ff").replace("0a1b2c", "ffffff"))


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    analysis = hostile_analysis("".join(HOSTILE))
    path = tmp_path_factory.mktemp("gallery") / "index.html"
    path.write_text(gallery.render(analysis, gallery.figures(analysis, laws(analysis))), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Any, study: Path) -> Iterator[Opened]:  # noqa: F811
    asked = load(study)
    analysis = analyse(asked, records_of(asked, probes=True))
    page = study.parent / "index.html"
    page.write_text(gallery.render(analysis, gallery.figures(analysis, laws(analysis))), encoding="utf-8")
    it = Opened(browser, page.as_uri())
    yield it
    it.context.close()


@pytest.mark.browser
def test_the_page_draws_itself_without_network_complaint_or_violation(opened: Opened) -> None:
    opened.draw_all()
    for select in opened.page.locator("select.choice").all():
        for option in select.locator("option").all():
            select.select_option(option.get_attribute("value"))
            opened.draw_all()
    assert [url for url in opened.requests if not url.startswith(("data:", "blob:"))] == [opened.page.url.split("#")[0]]
    assert opened.complaints == [] and opened.violations == []
    assert opened.page.locator("figure[data-drawn=failed]").count() == 0


@pytest.mark.browser
def test_a_choice_shows_its_panel_lands_in_the_address_and_comes_back(opened: Opened, browser: Any) -> None:  # noqa: F811
    page = opened.page
    page.locator("#pick-time-to-learn").select_option("1")
    assert "pick-time-to-learn=1" in page.url
    again = Opened(browser, page.url)
    for it in (page, again.page):
        shown = it.locator("#time-to-learn .panel:visible")
        assert shown.count() == 1 and shown.get_attribute("data-choice") == "1"
    again.context.close()


@pytest.mark.browser
def test_a_table_of_its_numbers_stands_under_each_figure(opened: Opened) -> None:
    opened.draw_all()
    for details in opened.page.locator("details.numbers:visible").all():
        details.locator("summary").click()
        details.locator("tbody tr").first.wait_for()
    assert opened.page.locator("#thresholds tbody tr").count() == 4


@pytest.mark.browser
@pytest.mark.parametrize("width", [700, 1280])
def test_nothing_is_wider_than_the_screen_or_too_small_to_read(opened: Opened, width: int) -> None:
    opened.page.set_viewport_size({"width": width, "height": 900})
    opened.draw_all()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    smallest = opened.page.evaluate(
        """() => Math.min(...[...document.querySelectorAll('main *')]
            .filter(e => e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
            .map(e => parseFloat(getComputedStyle(e).fontSize)))"""
    )
    assert smallest >= 12


@pytest.mark.browser
def test_hostile_names_run_nothing(browser: Any, hostile_page: Path) -> None:  # noqa: F811
    opened = Opened(browser, hostile_page.as_uri())
    opened.draw_all()
    for summary in opened.page.locator("details.numbers > summary:visible").all():
        summary.click()
    assert opened.page.locator("img").count() == 0
    assert opened.complaints == [] and opened.violations == []
    assert HOSTILE[0] in opened.page.inner_text("main")
    opened.context.close()


@pytest.mark.browser
def test_axe_finds_no_serious_violation(browser: Any, opened: Opened) -> None:  # noqa: F811
    from axe_playwright_python.sync_playwright import Axe

    it = Opened(browser, opened.page.url, bypass_csp=True)
    it.draw_all()
    it.page.locator("details.numbers:visible > summary").first.click()
    found = Axe().run(it.page).response["violations"]
    grave = [
        (v["id"], [n["html"][:160] for n in v["nodes"][:3]]) for v in found if v["impact"] in ("serious", "critical")
    ]
    assert grave == []
    it.context.close()
