"""From a file of solutions to the program of any set of operations, by one rule and no hand.

A library is parsed, never imported. The program of a set of operations is the transitive closure of the module-level
definitions that one solution of each needs, so that shared code stands in it once, and a table SOLVE that dispatches.
Among several solutions the assembly of the fewest characters is taken (the first of equal ones), each definition being
minified alone: a bound from above, as every measure of this kind is, by the same search for every operation and set.
"""

from __future__ import annotations

import ast
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from kc_interp.errors import SpecError, did_you_mean

ENTRY = "SOLVE"
"""The one name of a program that is kept: {"MAX": function, …}; a function takes the operands as its arguments."""

Solver = Callable[..., object]


@dataclass(frozen=True)
class Library:
    """The definitions of one variant by name, in the order of the file."""

    variant: str
    source: str

    def with_source(self, more: str) -> Library:
        """This library with further definitions: another operation, or another solution of one."""
        return Library(self.variant, f"{self.source}\n{more}")

    @functools.cached_property
    def definitions(self) -> Mapping[str, ast.stmt]:
        """Each module-level name with the statement that binds it, annotations and docstrings removed."""
        found: dict[str, ast.stmt] = {}
        for statement in _Bare().visit(ast.parse(self.source)).body:
            for name in _bound(statement):
                found[name] = statement
        return found

    @functools.cached_property
    def solutions(self) -> Mapping[str, tuple[str, ...]]:
        """The solutions of each operation: functions named after it, `max_by_scan` for MAX."""
        found: dict[str, tuple[str, ...]] = {}
        for name, statement in self.definitions.items():
            word, underscore, _ = name.partition("_")
            if isinstance(statement, ast.FunctionDef) and underscore and word:
                found[word.upper()] = (*found.get(word.upper(), ()), name)
        return found

    def needs(self, name: str) -> frozenset[str]:
        """The name with every module-level name that it leads to."""
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            current = waiting.pop()
            if current not in seen:
                seen.add(current)
                used = {node.id for node in ast.walk(self.definitions[current]) if isinstance(node, ast.Name)}
                waiting += used & self.definitions.keys()
        return frozenset(seen)

    def assemble(self, operations: Sequence[str], settings: Mapping[str, int | str]) -> Program:
        """The program of these operations; `settings` are module-level constants to set (MODULUS, ORDER).

        Raises SpecError when an operation has no solution here.
        """
        for operation in operations:
            if operation not in self.solutions:
                raise SpecError(
                    f"the {self.variant} programs do not solve {operation!r}{did_you_mean(operation, self.solutions)}"
                )
        chosen = self._shortest(operations)
        wanted = frozenset[str]().union(*(self.needs(name) for name in chosen))
        body = [self._set(statement, settings) for statement in self._statements(wanted)]
        table = ", ".join(f"{operation!r}: {name}" for operation, name in zip(operations, chosen, strict=True))
        module = ast.Module(body=[*body, *ast.parse(f"{ENTRY} = {{{table}}}").body], type_ignores=[])
        return Program(self.variant, tuple(operations), chosen, ast.unparse(ast.fix_missing_locations(module)) + "\n")

    def text(self, name: str) -> str:
        """The source of one definition with all that it needs."""
        return "".join(f"{ast.unparse(statement)}\n" for statement in self._statements(self.needs(name)))

    def _statements(self, names: Iterable[str]) -> list[ast.stmt]:
        """The statements that bind these names, each once, in the order of the file."""
        wanted = {id(self.definitions[name]) for name in names}
        return [statement for statement in _once(self.definitions.values()) if id(statement) in wanted]

    def _shortest(self, operations: Sequence[str]) -> tuple[str, ...]:
        def characters(chosen: tuple[str, ...]) -> int:
            wanted = frozenset[str]().union(*(self._needs[name] for name in chosen))
            return sum(self._characters[id(statement)] for statement in self._statements(wanted))

        candidates = list(itertools.product(*(self.solutions[operation] for operation in operations)))
        return candidates[0] if len(candidates) == 1 else min(candidates, key=characters)

    @functools.cached_property
    def _needs(self) -> Mapping[str, frozenset[str]]:
        return {name: self.needs(name) for names in self.solutions.values() for name in names}

    @functools.cached_property
    def _characters(self) -> Mapping[int, int]:
        """The length of each statement minified alone, other definitions having names of one character."""
        lengths = {}
        for statement in _once(self.definitions.values()):
            short = _Short(self.definitions.keys()).visit(ast.parse(ast.unparse(statement)))
            lengths[id(statement)] = len(_minified(ast.unparse(short)))
        return lengths

    @staticmethod
    def _set(statement: ast.stmt, settings: Mapping[str, int | str]) -> ast.stmt:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if not isinstance(target, ast.Name) or target.id not in settings:
            return statement
        return ast.Assign(targets=[target], value=ast.Constant(settings[target.id]))


@dataclass(frozen=True)
class Program:
    """An assembled program: `chosen` are its solutions, parallel to `operations`; `source` is readable Python."""

    variant: str
    operations: tuple[str, ...]
    chosen: tuple[str, ...]
    source: str

    @functools.cached_property
    def minified(self) -> str:
        """The source through python-minifier (https://github.com/dflook/python-minifier): names shortened, comments
        and annotations dropped, literals hoisted. What is measured, and what is run."""
        return _minified(self.source)

    def run(self) -> Mapping[str, Solver]:
        """The minified program executed: the function of each operation."""
        namespace: dict[str, object] = {}
        exec(compile(self.minified, f"<{self.variant} program>", "exec"), namespace)
        found = namespace[ENTRY]
        assert isinstance(found, dict)
        return found


def _minified(source: str) -> str:
    import python_minifier

    return python_minifier.minify(
        source,
        remove_literal_statements=True,
        rename_locals=True,
        rename_globals=True,
        preserve_globals=[ENTRY],
    )


class _Short(ast.NodeTransformer):
    """With one character for every name of the module: one that the minifier never gives, so none is shadowed."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name("µ" if node.id in self._names else node.id, node.ctx)


class _Bare(ast.NodeTransformer):
    """Without what does not run (annotations, docstrings), and with every argument positional."""

    def visit_arguments(self, node: ast.arguments) -> ast.arguments:
        self.generic_visit(node)
        # The minifier keeps the name of an argument that could be passed by name, and sizes would depend on it.
        node.posonlyargs, node.args = [*node.posonlyargs, *node.args], []
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.returns = None
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node


def ast_nodes(tree: ast.AST) -> int:
    """Nodes of a syntax tree; the module itself and the load and store marks of names are no nodes."""
    return sum(not isinstance(node, (ast.Module, ast.expr_context)) for node in ast.walk(tree))


def _once(statements: Iterable[ast.stmt]) -> list[ast.stmt]:
    return list({id(statement): statement for statement in statements}.values())


def _bound(statement: ast.stmt) -> list[str]:
    """The names that a statement of the module binds."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return [statement.name]
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name for alias in statement.names]
    if isinstance(statement, ast.Assign):
        named = [node for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        return [node.id for node in named]
    return []


@functools.cache
def shipped(name: str) -> Library:
    """A library of `programs`, by the name of its file."""
    source = resources.files("kc_interp.complexity.programs").joinpath(f"{name}.py").read_text(encoding="utf-8")
    return Library(name, source)
