"""`kc-interp circuit` as a user meets it: one's own pairs and edges, and a message that says what would work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kc_interp.checkpoint import FILE_NAME
from kc_interp.testing import known_answer
from tests.test_cli import run

QUICK = ["--no-open", "--quiet", "--threads", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model whose circuit is known, and one that was never trained."""
    found, known = tmp_path_factory.mktemp("models"), known_answer("lookup_sum")
    one = known.checkpoint()
    for name in ("known", "silent"):
        (found / name).mkdir()
        one.save(found / name / FILE_NAME)
        for weight in one.params.values():
            weight.zero_()
    return found


def test_ones_own_pairs_and_edges_are_measured(folder: Path) -> None:
    (folder / "pairs.tsv").write_text("[SUM 1 2]\t[SUM 3 2]\n\n[SUM 5 2]\t[SUM 6 2]\n")
    own = ["--clean", "[SUM 0 2]", "--twin", "[SUM 9 2]", "--pairs-file", "pairs.tsv", "--without", "a0.h0->m0"]
    done = run("circuit", "--model", "known", *own, *QUICK, cwd=folder)
    assert "3 given pairs of chains like [SUM 0 2] = 2" in done.stdout
    assert "all of these at once" in done.stdout
    assert (folder / "known" / "circuit" / "report.html").exists()
    found = json.loads(run("circuit", "--model", "known", *own, "--json", *QUICK, cwd=folder).stdout)
    (finding,) = found["findings"]["known"]
    assert finding["settings"]["given"][0] == ["[SUM 0 2]", "[SUM 9 2]"]
    (asked,) = [table for table in finding["tables"] if table["title"].startswith("What is lost without")]
    assert [row[0] for row in asked["rows"]] == ["a0.h0->m0", "all of these at once"]
    assert asked["rows"][0][1] == pytest.approx(1, abs=1e-3)


def test_a_model_that_tells_nothing_apart_gets_a_reason_and_no_error(folder: Path) -> None:
    done = run("circuit", "--model", "silent", "--pairs", "4", *QUICK, cwd=folder)
    assert "has not learned its task" in done.stdout
    assert "No circuit: cutting every edge changes the logit difference by 0" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--without", "a0.h7->m0"], "no edge 'a0.h7->m0': 'a0.h7' is no writer; did you mean 'a0.h"),
        (["--clean", "[SUM 1 2]"], "1 --clean for 0 --twin; give one --twin for each --clean"),
        (["--clean", "[SUM 1 2]", "--twin", "[SUM 1 2 2]"], "symbol 5 is '2' (digit), in its clean chain"),
        (["--pairs-file", "columns.tsv"], "columns.tsv, line 1: found 1 columns; a line is a clean question, a tab"),
        (["--pairs-file", "empty.tsv"], "empty.tsv: holds no pair"),
        (["--pairs-file", "missing.tsv"], "missing.tsv: No such file"),
        (["--within", "chain"], "'chain'"),
        (["--skill", "MAX"], "'MAX' is not part of the task of every model; known: SUM"),
    ],
)
def test_a_mistake_gets_one_message(arguments: list[str], says: str, folder: Path) -> None:
    (folder / "columns.tsv").write_text("[SUM 1 2] [SUM 3 2]\n")
    (folder / "empty.tsv").write_text("\n")
    done = run("circuit", "--model", "known", *arguments, *QUICK, cwd=folder, check=1)
    assert says in done.stderr
    assert done.stdout == ""


def test_a_model_of_a_task_that_is_not_installed_is_named_with_those_that_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kc_interp.plugins

    installed = kc_interp.plugins.installed
    monkeypatch.setattr(kc_interp.plugins, "installed", lambda group: [] if group == "tasks" else installed(group))
    done = run("circuit", "--model", "known", *QUICK, cwd=folder, check=1)
    assert "listops" in done.stderr


def test_the_default_in_words_of_every_option_is_in_the_help(tmp_path: Path) -> None:
    import click
    import typer.main

    from kc_interp.cli import app

    def commands(group: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
        inner = getattr(group, "commands", {})
        return [found for name, one in inner.items() for found in commands(one, (*path, name))] or [(path, group)]

    checked = 0
    for path, command in commands(typer.main.get_command(app)):
        shown = "".join(run(*path, "--help", cwd=tmp_path).stdout.replace("│", " ").split())
        for parameter in command.params:
            says = getattr(parameter, "show_default", None)
            assert "[default:" not in (getattr(parameter, "help", None) or ""), "rich reads [ ] as mark-up"
            if isinstance(says, str):
                checked += 1
                assert f"[default:({''.join(says.split())})]" in shown, (path, parameter.name)
    assert checked > 20
