"""The house rules: each reads one file and yields what is wrong, with the remedy.

Words that a rule forbids are built from parts, so that this file keeps the rules itself.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath

from privacy_ledger.logging import LOG_KEYS

__all__ = ["RULES", "Rule", "Text", "problems"]

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500
TEST_MODULE_LINES_MAX = 800
PROCESSOR_LINES_MAX = 60
LOG_LEVELS = ("debug", "info", "warning", "error", "critical", "exception")
RESERVED_DOMAINS = ("example.com", "example.org", "example.net", "test", "invalid")

_LEFTOVER = re.compile(r"\b(" + "|".join(("FIX" + "ME", "TO" + "DO", "X" + "XX")) + r")\b")
_EMAIL = re.compile(r"[\w.+-]+@((?:[\w-]+\.)+[A-Za-z]{2,})\b")
_MACHINE_PATH = re.compile(
    r"(?<![\w.}~$-])(?:/(?:"
    + "|".join(("ho" + "me", "ro" + "ot", "Us" + "ers", "wo" + "rk"))
    + r")/\w|[A-Z]:\\\w)"
)
_HOSTS = (
    "py" + "pi.org",
    "python" + "hosted.org",
    "registry.npm" + "js.org",
    "proxy.go" + "lang.org",
    "repo1.ma" + "ven.org",
    "repo.ma" + "ven.apache.org",
    "conda.ana" + "conda.org",
    "crates" + ".io",
)
_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r"^# \S", re.MULTILINE)
_NOQA = re.compile(r"noqa(?::\s*[A-Z]+\d+(?:\s*,\s*[A-Z]+\d+)*)?")


@dataclass(frozen=True)
class Text:
    """A file of the repository: its path from the root, and what it says."""

    path: PurePosixPath
    content: str

    @property
    def lines(self) -> list[str]:
        """The lines, without their ends."""
        return self.content.splitlines()

    @property
    def tree(self) -> ast.Module:
        """The syntax tree of a Python file."""
        return _parsed(self.content)


@cache
def _parsed(content: str) -> ast.Module:
    return ast.parse(content)


class Rule:
    """One house rule: where it holds, and what it finds; each of `planted` is a file that breaks it."""

    def __init__(
        self,
        name: str,
        holds_in: Callable[[PurePosixPath], bool],
        find: Callable[[Text], Iterator[str]],
        *planted: Text,
    ) -> None:
        """Take a name for the test's report, the places, the search and the planted files."""
        self.name = name
        self.holds_in = holds_in
        self.find = find
        self.planted = planted


def problems(rule: Rule, files: list[Text]) -> list[str]:
    """Return what a rule finds in these files, each with its place and remedy."""
    return [
        f"{file.path}: {found}" for file in files if rule.holds_in(file.path) for found in rule.find(file)
    ]


def _is_python(path: PurePosixPath) -> bool:
    return path.suffix == ".py"


def _is_product(path: PurePosixPath) -> bool:
    return path.suffix == ".py" and path.parts[0] in {"src", "processors"}


def _is_markdown(path: PurePosixPath) -> bool:
    return path.suffix == ".md"


def _is_any(_: PurePosixPath) -> bool:
    return True


def _is_prose_or_python(path: PurePosixPath) -> bool:
    return path.suffix in {".py", ".md"}


def _is_public_module(path: PurePosixPath) -> bool:
    is_private = path.stem.startswith("_") and path.stem != "__init__"
    return path.parts[0] == "src" and _is_python(path) and not is_private


def _is_test_module(path: PurePosixPath) -> bool:
    return path.parts[0] == "tests" and path.name.startswith("test_") and _is_python(path)


def _is_program(path: PurePosixPath) -> bool:
    return path.parts[0] in {"src", "processors"} and _is_python(path) and path.name != "logging.py"


def _is_processor(path: PurePosixPath) -> bool:
    return path.parts[0] == "processors" and _is_python(path)


def _long_functions(file: Text) -> Iterator[str]:
    for node in ast.walk(file.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body
            length = (node.end_lineno or 0) - body[0].lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield (
                    f"{node.lineno}: {node.name} has {length} lines, more than {FUNCTION_LINES_MAX}. "
                    "Keep the decisions here, and move pure parts to helpers below."
                )


def _long_modules(file: Text) -> Iterator[str]:
    bound = TEST_MODULE_LINES_MAX if file.path.parts[0] == "tests" else MODULE_LINES_MAX
    if (length := len(file.lines)) > bound:
        yield f"{length} lines, more than {bound}. Split the module by what changes together."


def _long_processors(file: Text) -> Iterator[str]:
    if file.path.name == "app.py":  # the host's factory declares no processor
        return
    if (length := len(file.lines)) > PROCESSOR_LINES_MAX:
        yield (
            f"{length} lines, more than {PROCESSOR_LINES_MAX}. A processor declares source, view and step: "
            "move logic to a pure step in streams/."
        )


def _titles(file: Text) -> Iterator[str]:
    count = len(_TITLE.findall(_FENCE.sub("", file.content)))
    if count != 1:
        yield f"{count} titles. Keep exactly one line that starts with a single `#`."


def _leftovers(file: Text) -> Iterator[str]:
    for number, line in enumerate(file.lines, start=1):
        if found := _LEFTOVER.search(line):
            yield f"{number}: {found[1]} is left over. Do it now, or open an issue and remove the word."


def _exports(file: Text) -> Iterator[str]:
    public = _public_names(file.tree)
    exported = _exported(file.tree)
    if exported is None:
        if public:
            yield f"no `__all__`, but {', '.join(public)} are public. Add a sorted `__all__`."
        return
    names = [
        item.value for item in exported if isinstance(item, ast.Constant) and isinstance(item.value, str)
    ]
    if names != sorted(names, key=_export_order):
        yield "`__all__` is not sorted. Run `ruff check --fix --select RUF022`."
    if missing := [name for name in public if name not in names]:
        yield f"{', '.join(missing)} not in `__all__`. Export what others use, and prefix the rest with `_`."


def _exported(tree: ast.Module) -> list[ast.expr] | None:
    for node in tree.body:
        is_assignment = isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        )
        if is_assignment and isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Tuple):
            return node.value.elts
    return None


def _public_names(tree: ast.Module) -> list[str]:
    names: list[str] = []
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.append(name)
            case _:
                pass
    return [name for name in dict.fromkeys(names) if not name.startswith("_")]


def _export_order(name: str) -> tuple[int, list[tuple[int, int | str]]]:
    """Return the key of the linter's own order: constants, classes, the rest, each naturally."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    parts = re.findall(r"\d+|\D", name)
    return kind, [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _undescribed_tests(file: Text) -> Iterator[str]:
    for node in ast.walk(file.tree):
        is_test = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if (
            is_test
            and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and not ast.get_docstring(node)
        ):
            yield f"{node.lineno}: {node.name} has no docstring. State the behaviour in a sentence."


def _addresses(file: Text) -> Iterator[str]:
    for number, line in enumerate(file.lines, start=1):
        for found in _EMAIL.finditer(line):
            domain = found[1].lower()
            if not any(domain == kept or domain.endswith(f".{kept}") for kept in RESERVED_DOMAINS):
                yield f"{number}: {domain} may be somebody's. Use a made-up person at example.com."


def _machine_paths(file: Text) -> Iterator[str]:
    for number, line in enumerate(file.lines, start=1):
        if found := _MACHINE_PATH.search(line):
            yield f"{number}: {found[0]}... is a path of one machine. Use a relative path or a setting."


def _registry_hosts(file: Text) -> Iterator[str]:
    for number, line in enumerate(file.lines, start=1):
        for host in _HOSTS:
            if host in line:
                yield f"{number}: names {host}. Leave download addresses to the installer (decision 0002)."


def _broad_excepts(file: Text) -> Iterator[str]:
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and not _raises_again(node):
            _, _, comment = file.lines[node.lineno - 1].partition("#")
            if not re.search(r"\w", _NOQA.sub("", comment)):
                yield (
                    f"{node.lineno}: catches everything without a reason. Catch what the adapter raises, "
                    "or say on the line why this is the outermost frame."
                )


def _is_broad(caught: ast.expr | None) -> bool:
    match caught:
        case None:
            return True
        case ast.Name(id="Exception" | "BaseException"):
            return True
        case ast.Tuple(elts=members):
            return any(_is_broad(member) for member in members)
        case _:
            return False


def _raises_again(handler: ast.ExceptHandler) -> bool:
    """Return whether the handler only cleans up: its last statement raises what it caught."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def _logs(file: Text) -> Iterator[str]:
    """Yield log calls whose event is no constant text, or whose keys are not all known."""
    loggers = _loggers(file.tree)
    for node in ast.walk(file.tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=logger), attr=method)) if logger in loggers:
                if method not in LOG_LEVELS or method == "exception":
                    yield (
                        f"{node.lineno}: {logger}.{method} is no plain log line, or one with a traceback, "
                        "whose frames hold values. Use a level, and `reason` for the class of an error."
                    )
                elif not _is_constant_event(node.args):
                    yield (
                        f"{node.lineno}: the event is not one constant text. Say what happened in words, "
                        "and to whom and where in keys."
                    )
                elif foreign := sorted(_log_keys(node, file.tree) - LOG_KEYS):
                    yield (
                        f"{node.lineno}: {', '.join(foreign)} is not among the keys of logging.LOG_KEYS. "
                        "Use one of them, or leave it out."
                    )
            case ast.Attribute(
                value=ast.Name(id="logging"), attr=("debug" | "info" | "warning" | "error") as level
            ):
                yield f"{node.lineno}: logging.{level} passes by the fixed keys. Use `logging.get_logger`."
            case _:
                pass


def _loggers(tree: ast.Module) -> frozenset[str]:
    """Return the names that hold a logger."""
    return frozenset(
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "get_logger"
        for target in node.targets
        if isinstance(target, ast.Name)
    )


def _is_constant_event(args: list[ast.expr]) -> bool:
    match args:
        case [ast.Constant(value=str(event))]:
            return bool(event)
        case _:
            return False


def _log_keys(call: ast.Call, tree: ast.Module) -> set[str]:
    """Return the keys of a log call; what is spread into it must be a function that returns a literal."""
    keys: set[str] = set()
    for keyword in call.keywords:
        keys |= {keyword.arg} if keyword.arg is not None else _spread_keys(keyword.value, tree)
    return keys


def _spread_keys(value: ast.expr, tree: ast.Module) -> set[str]:
    match value:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            literals = [
                returned.value
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef) and node.name == name
                for returned in ast.walk(node)
                if isinstance(returned, ast.Return)
            ]
        case _:
            literals = [value]
    if not literals or not all(isinstance(literal, ast.Dict) for literal in literals):
        return {f"**{ast.unparse(value)}"}
    return {
        key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else "**"
        for literal in literals
        if isinstance(literal, ast.Dict)
        for key in literal.keys
    }


def _swallowed_ends(file: Text) -> Iterator[str]:
    """Find code after which a process goes on that was to end: only clean-up may see every exception."""
    for node in ast.walk(file.tree):
        match node:
            case ast.ExceptHandler(type=caught) if _is_the_end(caught) and not _raises_again(node):
                yield f"{node.lineno}: catches even the end of the process. Clean up and raise it again."
            case ast.Call(func=ast.Name(id="suppress") | ast.Attribute(attr="suppress"), args=kinds) if any(
                map(_is_the_end, kinds)
            ):
                yield f"{node.lineno}: suppresses even the end of the process. Name what may be ignored."
            case ast.Try(finalbody=[*_, ast.Return() | ast.Break() | ast.Continue()]):
                yield f"{node.lineno}: leaves a `finally` by a jump, which drops the exception. Fall through."
            case _:
                pass


def _is_the_end(caught: ast.expr | None) -> bool:
    """Return whether this catches what is no `Exception`, such as the end in a simulation."""
    match caught:
        case None:
            return True
        case ast.Name(id="BaseException"):
            return True
        case ast.Tuple(elts=members):
            return any(_is_the_end(member) for member in members)
        case _:
            return False


def _text(path: str, content: str) -> Text:
    return Text(PurePosixPath(path), content)


_LOGGER = "log_line = get_logger()\n"
_LONG_BODY = "def f() -> None:\n" + "    pass\n" * (FUNCTION_LINES_MAX + 1)

RULES = (
    Rule("functions are short", _is_python, _long_functions, _text("src/a.py", _LONG_BODY)),
    Rule("modules are short", _is_python, _long_modules, _text("src/a.py", "\n" * (MODULE_LINES_MAX + 1))),
    Rule(
        "processors are shells",
        _is_processor,
        _long_processors,
        _text("processors/a.py", "\n" * (PROCESSOR_LINES_MAX + 1)),
    ),
    Rule(
        "a page has one title", _is_markdown, _titles, _text("a.md", "# One\n\n```\n# code\n```\n\n# Two\n")
    ),
    Rule("nothing is left over", _is_prose_or_python, _leftovers, _text("src/a.py", "# TO" + "DO: later\n")),
    Rule(
        "exports are declared, complete and sorted",
        _is_public_module,
        _exports,
        _text("src/a.py", "def f() -> None: ...\n"),
        _text("src/a.py", '__all__ = ["f"]\n\n\ndef f() -> None: ...\n\n\ndef g() -> None: ...\n'),
        _text("src/a.py", '__all__ = ["f", "A"]\n\n\nclass A: ...\n\n\ndef f() -> None: ...\n'),
    ),
    Rule(
        "tests are described",
        _is_test_module,
        _undescribed_tests,
        _text("tests/test_a.py", "def test_a() -> None:\n    pass\n"),
    ),
    Rule("people are made up", _is_prose_or_python, _addresses, _text("a.md", "# A\n\nada" + "@mail.com\n")),
    Rule(
        "no path is one machine's", _is_any, _machine_paths, _text("a.md", "# A\n\n/ho" + "me/ada/ledger\n")
    ),
    Rule(
        "no registry is named",
        _is_any,
        _registry_hosts,
        _text("a.toml", "url = 'https://py" + "pi.org/simple'\n"),
    ),
    Rule(
        "broad excepts have a reason",
        _is_python,
        _broad_excepts,
        _text("src/a.py", "try:\n    pass\nexcept Exception:  # noqa: BLE001\n    pass\n"),
    ),
    Rule(
        "log lines have fixed keys",
        _is_program,
        _logs,
        _text("src/_a.py", _LOGGER + 'log_line.info("erasing", email=address)\n'),
        _text("src/_a.py", _LOGGER + 'log_line.info(f"erasing {address}")\n'),
        _text("src/_a.py", _LOGGER + 'log_line.info("erasing", address)\n'),
        _text("src/_a.py", _LOGGER + "log_line.info(event)\n"),
        _text("src/_a.py", _LOGGER + 'log_line.warning("cycle failed", **where)\n'),
        _text("src/_a.py", _LOGGER + 'log_line.warning("cycle failed", **{"email": 1})\n'),
        _text(
            "src/_a.py",
            _LOGGER + 'def where():\n    return {"ref": 1}\n\nlog_line.warning("cycle failed", **where())\n',
        ),
        _text("processors/a.py", _LOGGER + 'log_line.exception("cycle failed")\n'),
        _text("processors/a.py", _LOGGER + "log_line.bind(email=address)\n"),
        _text("src/_a.py", 'import logging\n\nlogging.info("erasing")\n'),
    ),
    Rule(
        "nothing swallows the end of the process",
        _is_product,
        _swallowed_ends,
        _text("src/a.py", "try:\n    pass\nexcept BaseException:  # a reason\n    pass\n"),
        _text("src/a.py", "try:\n    pass\nexcept:  # a reason\n    pass\n"),
        _text("src/a.py", "with suppress(OSError, BaseException):\n    pass\n"),
        _text("src/a.py", "with contextlib.suppress(BaseException):\n    pass\n"),
        _text("processors/a.py", "def f() -> None:\n    try:\n        pass\n    finally:\n        return\n"),
    ),
)
"""Every rule; a rule's planted files show that it bites."""
