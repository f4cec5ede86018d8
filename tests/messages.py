"""Every error and warning that the four scripts can print, read from their sources.

The scan starts where a message leaves the program: an exception of ours is made or raised, a line with [WARN], [FAIL] or [SKIP]
is written. It follows what stands there back to the texts, through names, parameters, calls of our own functions, fields of our
own classes and lists that were filled before. Nothing is run or imported. It does not see messages of other programs and
libraries, nor the half of a message that is filled in where the other half is a sentence by itself.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPTS = ("generate_training_data.py", "finetune.py", "export_gguf.py", "evaluate.py")
FILLING = ("append", "extend", "insert")
BLANK = "\N{HORIZONTAL ELLIPSIS}"  # stands for each value that is filled in
TAGGED = re.compile(rf"\s*\[(?:WARN|FAIL|SKIP|{BLANK})\]")  # [{level}] too
OTHER_TEXTS = (  # prompts, pages, word lists and good news, which the scan may reach from the parts of a message
    "distill/prompts.py", "distill/curation/card.py", "distill/training/card.py", "distill/curation/units.py",
    "distill/curation/statements.py", "distill/metrics/reading.py", "distill/report/page", "distill/report/findings.py",
    "distill/cases/general.py", "distill/rows/preview.py", "distill/training/chart.py", "distill/cases/memorised.py",
)
WORD = re.compile(r"['\"(]*[A-Za-z](?:[\w./'-]*\w)?[,:;.)'\"]*")
FEWEST_WORDS = 3  # shorter texts are names, units and glue, unless they are all that is raised
MOST_WORDS = 10_000
OTHER_CLASSES = ("Measure", "Metric", "CaseSet", "Question")  # their texts are metrics and questions
OTHER_FIELDS = ("advice", "commands")  # the second half of a message

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, order=True)
class Message:
    """One text of a message: its words with BLANK for what is filled in, and the place in the sources."""

    place: str  # file:line
    text: str


@dataclass
class Module:
    name: str
    tree: ast.Module
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def find_function(self, node: ast.AST) -> Function | None:
        """The function that a node stands in."""
        while node in self.parents:
            node = self.parents[node]
            if isinstance(node, Function):
                return node
        return None


def list_sources(root: Path) -> list[Path]:
    """The four scripts and everything they are made of."""
    return [root / script for script in SCRIPTS] + sorted(root.glob("distill/**/*.py"))


def name_of(node: ast.AST) -> str:
    """The last part of a called or caught name: `errors.PipelineError` -> PipelineError."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def read_text(node: ast.AST) -> str | None:
    """What a text expression says, with BLANK for what is filled in; None where it is no text."""
    if isinstance(node, ast.Constant):
        value = node.value.decode("ascii", "replace") if isinstance(node.value, bytes) else node.value
        return value if isinstance(value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else BLANK for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [read_text(side) for side in (node.left, node.right)]
        return None if parts == [None, None] else "".join(BLANK if part is None else part for part in parts)
    return None


def count_words(text: str) -> int:
    """Words of prose: no markup, no patterns, and nothing that is good news."""
    if text.lstrip().startswith("[OK]"):
        return 0
    return sum(bool(WORD.fullmatch(each)) for each in text.replace(BLANK, " ").split())


class Scan:
    """The sources' messages. `found` holds them; `lost` the places where a message could not be followed to any text."""

    def __init__(self, paths: list[Path], root: Path) -> None:
        self.found: set[Message] = set()
        self.lost: set[str] = set()
        self._modules = [Module(p.relative_to(root).as_posix(), ast.parse(p.read_text(encoding="utf-8"))) for p in paths]
        self._functions: dict[str, list[tuple[Module, Function]]] = defaultdict(list)
        self._classes: dict[str, ast.ClassDef] = {}
        self._calls: dict[str, list[tuple[Module, ast.Call]]] = defaultdict(list)
        self._seen: dict[ast.AST, int] = {}
        self._touched = False
        self._bindings: dict[ast.AST, list[tuple[str, ast.AST | None]]] = {}
        for module in self._modules:
            self._index(module)
        self._errors = self._list_errors()
        for module in self._modules:
            for node in ast.walk(module.tree):
                self._start(module, node)

    def _index(self, module: Module) -> None:
        for node in ast.walk(module.tree):
            if isinstance(node, Function):
                self._functions[node.name].append((module, node))
            elif isinstance(node, ast.ClassDef):
                self._classes[node.name] = node
            elif isinstance(node, ast.Call):
                self._calls[name_of(node.func)].append((module, node))

    def _list_errors(self) -> set[str]:
        """Our own exceptions, whoever they descend from. ValueError joins them where pydantic shows its text: in config.py."""
        ours = {"PipelineError"}
        parents = {name: {name_of(base) for base in each.bases} for name, each in self._classes.items()}
        for _ in range(3):  # children, grandchildren and so on
            ours |= {name for name, bases in parents.items() if bases & {*ours, "Exception"}}
        return ours

    # -------------------------------------------------------------------------
    # Where a message leaves the program

    def _start(self, module: Module, node: ast.AST) -> None:
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = name_of(node.exc.func)
            if name in self._errors or (name == "ValueError" and module.name == "distill/config.py"):
                self._begin(module, node, list(node.exc.args))
            elif name in self._functions:
                self._begin(module, node, [node.exc])
        elif isinstance(node, (ast.JoinedStr, ast.Constant)):
            text, inside = read_text(node) or "", isinstance(module.parents[node], (ast.JoinedStr, ast.Expr))
            if not inside and TAGGED.match(text) and (count_words(text) or BLANK in text):
                self._begin(module, node, [node])
        elif isinstance(node, ast.Call) and self._stops(node) and not isinstance(module.parents[node], ast.Raise):
            self._begin(module, node, list(node.args))

    def _stops(self, call: ast.Call) -> bool:
        """Whether a call makes an error of ours, or complains about the command line."""
        return name_of(call.func) in self._errors or ast.unparse(call.func) == "parser.error"

    def _begin(self, module: Module, node: ast.AST, texts: list[ast.AST]) -> None:
        self._touched = False
        for text in texts:
            self._follow(module, text, fewest=1)
        if not self._touched:
            self.lost.add(f"{module.name}:{node.lineno}")

    # -------------------------------------------------------------------------
    # Back to the texts

    def _follow(self, module: Module, node: ast.AST | None, fewest: int = FEWEST_WORDS) -> None:
        """Keep the text that stands here; without a sentence of its own, go on to where its parts come from."""
        if node is None or self._seen.get(node, MOST_WORDS) <= fewest:
            self._touched |= node is not None
            return
        self._seen[node] = fewest
        text = read_text(node)
        words = 0 if text is None else count_words(text)
        if text is not None and words >= fewest:
            self._touched = True
            if not module.name.startswith(OTHER_TEXTS) and not text.lstrip().startswith("SELECT "):
                self.found.add(Message(f"{module.name}:{node.lineno}", " ".join(text.split())))
        if words <= FEWEST_WORDS + 1:
            for part in self._list_origins(module, node):
                self._follow(*part)

    def _list_origins(self, module: Module, node: ast.AST) -> Iterator[tuple[Module, ast.AST | None]]:
        """The expressions that a value may come from."""
        if isinstance(node, ast.Name):
            yield from self._find_name(module, node)
        elif isinstance(node, ast.Call):
            yield from self._find_call(module, node)
        elif isinstance(node, ast.Attribute):
            yield from self._find_field(node.attr)
        elif isinstance(node, ast.IfExp):
            yield from ((module, part) for part in (node.body, node.orelse))
        elif isinstance(node, ast.Dict):
            yield from ((module, part) for part in (*node.keys, *node.values))
        elif isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.SetComp)):
            yield module, node.elt
        elif isinstance(node, ast.Subscript):
            yield module, node.value
        elif isinstance(node, ast.JoinedStr):
            yield from ((module, part.value) for part in node.values if isinstance(part, ast.FormattedValue))
        elif isinstance(node, (ast.Compare, ast.Constant)):
            return
        else:
            yield from ((module, part) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr))

    def _find_name(self, module: Module, name: ast.Name) -> Iterator[tuple[Module, ast.AST | None]]:
        function = module.find_function(name)
        scope: ast.AST = function or module.tree
        bindings = self._list_bindings(scope)
        if (name.id, None) in bindings:
            self._touched = True  # a caught error that is passed on: its text is found where it is raised
            return
        values = [value for target, value in bindings if target == name.id]
        yield from ((module, value) for value in values)
        if function is None:
            return
        if not values:
            yield from self._find_parameter(module, function, name.id)
        constants = (pair for each in module.tree.body for pair in list_bindings(each))
        yield from ((module, value) for target, value in constants if target == name.id)

    def _list_bindings(self, scope: ast.AST) -> list[tuple[str, ast.AST | None]]:
        """Every name that gets a value in a function or a module, with the value; None for a caught error."""
        if scope not in self._bindings:
            caught = [(each.name, None) for each in ast.walk(scope) if isinstance(each, ast.ExceptHandler) and each.name]
            self._bindings[scope] = caught + [pair for each in ast.walk(scope) for pair in list_bindings(each) if pair[1]]
        return self._bindings[scope]

    def _find_parameter(self, module: Module, function: Function, name: str) -> Iterator[tuple[Module, ast.AST | None]]:
        """What the callers give for a parameter."""
        names = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
        if name not in [*names, *(each.arg for each in function.args.kwonlyargs)]:
            return
        skipped = names[:1] in (["self"], ["cls"])
        for place, call in self._calls[function.name]:
            yield from ((place, each.value) for each in call.keywords if each.arg == name)
            index = names.index(name) - skipped if name in names else -1
            if 0 <= index < len(call.args):
                yield place, call.args[index]

    def _find_call(self, module: Module, call: ast.Call) -> Iterator[tuple[Module, ast.AST | None]]:
        name = name_of(call.func)
        if name in self._classes and name not in self._errors:
            return  # its fields are followed where they are read
        for place, function in self._functions.get(name, []):
            for each in ast.walk(function):
                if isinstance(each, (ast.Return, ast.Yield, ast.YieldFrom)) and place.find_function(each) is function:
                    yield place, each.value
        of_text = isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Constant)  # "".join(...)
        if name not in self._functions or of_text:
            yield from ((module, part) for part in call.args)
            if isinstance(call.func, ast.Attribute):
                yield module, call.func.value

    def _find_field(self, name: str) -> Iterator[tuple[Module, ast.AST | None]]:
        """What fills a field of that name, a text, in any class of ours."""
        for owner, each in self._classes.items() if name not in OTHER_FIELDS else ():
            if owner in OTHER_CLASSES:
                continue
            fields = [part for part in each.body if isinstance(part, ast.AnnAssign)]
            names = [name_of(part.target) for part in fields]
            if name not in names or "str" not in ast.unparse(fields[names.index(name)].annotation):
                continue
            for place, call in self._calls[owner]:
                if any(isinstance(part, ast.Constant) and part.value == "OK" for part in call.args):
                    continue  # good news
                yield from ((place, part.value) for part in call.keywords if part.arg == name)
                if names.index(name) < len(call.args):
                    yield place, call.args[names.index(name)]
        for place, function in self._functions.get(name, []):  # a property
            if any(name_of(part) in ("property", "cached_property") for part in function.decorator_list):
                yield from ((place, part.value) for part in ast.walk(function) if isinstance(part, ast.Return))


def list_bindings(node: ast.AST) -> Iterator[tuple[str, ast.AST | None]]:
    """(name, expression) for each way in which a node gives a name its value, filling a list included."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                yield from ((name_of(part), value) for part, value in zip(target.elts, node.value.elts))
            elif isinstance(target, ast.Tuple):
                yield from ((name_of(part), node.value) for part in target.elts)
            else:
                yield name_of(target), node.value
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.NamedExpr)):
        yield name_of(node.target), node.value
    elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
        targets = node.target.elts if isinstance(node.target, ast.Tuple) else [node.target]
        yield from ((name_of(part), node.iter) for part in targets)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FILLING:
        yield from ((name_of(node.func.value), part) for part in node.args)


def scan_messages(root: Path = ROOT) -> Scan:
    return Scan(list_sources(root), root)


if __name__ == "__main__":
    result = scan_messages()
    print("\n".join(f"{each.place}: {each.text}" for each in sorted(result.found)).replace(BLANK, "..."))
    print(f"{len(result.found)} texts; not followed: {sorted(result.lost)}")
