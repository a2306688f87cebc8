"""What the documents say is what the program does: commands, options, settings, figures."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from uuid import uuid4

import click
import pytest

from privacy_ledger.interfaces.cli.main import main
from privacy_ledger.testing.broker import Broker
from tests.docs.documents import (
    INSTALL,
    ROOT,
    Block,
    Done,
    Step,
    blocks_of,
    codes_of,
    environment,
    run_steps,
    steps_of,
)

README: Final = "README.md"
RUNBOOK: Final = "processors/README.md"
DOCUMENTS: Final = (README, RUNBOOK)
KINDS: Final = ("embedded", "kafka", "compose", "tests")
EMBEDDED_TIMEOUT_S: Final = 200
KAFKA_TIMEOUT_S: Final = 160
FOREIGN_OPTIONS: Final = frozenset({"--group", "--build", "--detach"})
"""Options of other programs that the documents use."""
VARIABLE: Final = re.compile(r"PRIVACY_LEDGER_[A-Z][A-Z_]*[A-Z]")
OPTION: Final = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
SUBSTITUTED: Final = re.compile(r"\$\([^)]*\)")
READERS: Final = ("read", "os.environ.get", "environ.get", "os.getenv")
"""How the code asks for a variable of the environment."""
NUMBER: Final = re.compile(r"-?\d[\d,.]*")

Path_ = tuple[str, ...]


# The blocks are run ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what the embedded commands of each document print, run as two readers would at once."""

    def read(file: str) -> Done:
        folder = tmp_path_factory.mktemp("reader") / "clone"
        return run_steps(_steps(file, "embedded"), folder, environment(folder), timeout_s=EMBEDDED_TIMEOUT_S)

    with ThreadPoolExecutor(len(DOCUMENTS)) as readers:
        done = dict(zip(DOCUMENTS, readers.map(read, DOCUMENTS), strict=True))
    assert not [one.failure for one in done.values() if one.failure]
    return {file: one.out for file, one in done.items()}


def test_every_block_says_where_it_runs() -> None:
    """A block of commands has an info string that a test knows; any other is plain text."""
    wrong = [str(block) for block in _all_blocks() if not _is_known(block)]

    assert wrong == []


def test_every_embedded_command_ends_as_promised(told: dict[str, str]) -> None:
    """The blocks for a home run in order in an empty folder, and each command ends as written."""
    assert told[README]


def test_the_excerpt_of_the_demo_is_what_it_prints(told: dict[str, str]) -> None:
    """Every line of the excerpt is printed, figures aside, in the same order."""
    (excerpt,) = [block for block in blocks_of(README) if block.info == ("text", "demo")]
    printed = iter([NUMBER.sub("#", line.strip()) for line in told[README].splitlines()])

    missing = [line for line in _lines(excerpt) if NUMBER.sub("#", line) not in printed]

    assert missing == []


@pytest.mark.parametrize("file", DOCUMENTS)
def test_every_command_for_a_cluster_ends_as_promised(file: str, kafka: Broker, tmp_path: Path) -> None:
    """The blocks for Kafka run in order on a real broker, with workers that stop by SIGTERM."""
    steps = _steps(file, "kafka")
    folder = tmp_path / "clone"
    env = environment(
        folder, PRIVACY_LEDGER_TOPIC_PREFIX=f"d{uuid4().hex[:10]}.", PRIVACY_LEDGER_PARTITIONS="2"
    )

    done = run_steps(steps, folder, env, address=kafka.bootstrap, timeout_s=KAFKA_TIMEOUT_S)

    assert not done.failure, done.failure


def test_compose_knows_what_its_commands_name(tmp_path: Path) -> None:
    """Each command is one of the compose client, about services of the file; the client reads it."""
    steps = [step for file in DOCUMENTS for step in _steps(file, "compose")]
    assert steps
    assert [step.place for step in steps if not step.command.startswith("docker compose ")] == []
    docker = shutil.which("docker")
    if docker is None or _run([docker, "compose", "version"], tmp_path).returncode != 0:
        pytest.skip("no `docker compose` client on this machine")

    answer = _run(
        [docker, "compose", "-f", str(ROOT / "docker-compose.yml"), "config", "--services"], tmp_path
    )

    assert answer.returncode == 0, answer.stderr
    named = {found for step in steps for found in re.findall(r" exec (?:-T )?(\S+)", step.command)}
    assert named <= set(answer.stdout.split())


def test_the_test_command_is_what_the_build_runs() -> None:
    """The one line of the README is the one line of `.ci/run`."""
    (step,) = _steps(README, "tests")

    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == step.command


def test_the_first_two_commands_are_the_demo_and_the_tests() -> None:
    """A newcomer sees what to run before anything else, and each is one line."""
    shell = [block for block in blocks_of(README) if block.info[:1] == ("sh",)]

    first = [steps_of(block) for block in shell[:2]]

    assert [[step.command for step in steps] for steps in first] == [
        [f"{INSTALL}uv run privacy-ledger demo"],
        [f"{INSTALL}uv run --group dev poe test"],
    ]


# The names are known ---------------------------------------------------------------------------


def test_every_command_is_described() -> None:
    """No command of the program is missing from the documents."""
    found = {path for _, path, _ in _invocations()}

    assert sorted(" ".join(path) for path in _commands() if path not in found) == []


def test_every_option_is_described() -> None:
    """No option of a command is missing from the documents, beside that command."""
    found = {(path, option) for _, path, rest in _invocations() for option in OPTION.findall(rest)}

    missing = [
        f"{' '.join(path)} {'/'.join(names)}"
        for path, command in _commands().items()
        for names in _options(command)
        if not any((path, name) in found for name in names)
    ]
    written = {option for code in _codes() for option in OPTION.findall(code)}
    missing += ["/".join(names) for names in _options(main) if not written & set(names)]

    assert missing == []


def test_no_unknown_command_is_mentioned() -> None:
    """What looks like a command of the program is one, with options that it has."""
    wrong: list[str] = []
    for code, path, rest in _invocations():
        command = _commands().get(path)
        known = {name for names in _options(main) for name in names} | FOREIGN_OPTIONS
        if command is None:
            wrong.append(code)
            continue
        known.update(name for names in _options(command) for name in names)
        wrong += [f"{code}: {option}" for option in OPTION.findall(rest) if option not in known]

    assert wrong == []


def test_no_unknown_option_is_mentioned() -> None:
    """An option that stands alone belongs to some command."""
    every = {
        name for command in (main, *_commands().values()) for names in _options(command) for name in names
    }
    alone = {code.split()[0] for code in _codes() if code.startswith("-") and not code.startswith("---")}

    assert sorted(alone - every - FOREIGN_OPTIONS) == []


def test_every_setting_is_described() -> None:
    """Variables that are read and variables that are described are the same."""
    text = "".join((ROOT / file).read_text(encoding="utf-8") for file in DOCUMENTS)

    assert set(VARIABLE.findall(text)) == set(_variables())


def test_every_named_place_exists() -> None:
    """Links between the documents, and the folders on the map, lead somewhere."""
    wrong: list[str] = []
    for file in (*DOCUMENTS, *(f".github/decisions/{path.name}" for path in _decisions())):
        text = (ROOT / file).read_text(encoding="utf-8")
        targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
        wrong += [
            f"{file}: {target}"
            for target in targets
            if target and "://" not in target and not (ROOT / file).parent.joinpath(target).exists()
        ]
    (tree,) = [block for block in blocks_of(README) if block.info == ("text", "map")]
    wrong += [line for line in _lines(tree) if not (ROOT / line.split()[0]).exists()]

    assert wrong == []


def test_every_decision_is_in_the_index() -> None:
    """The index lists each record by its number and title."""
    index = (ROOT / ".github/decisions/README.md").read_text(encoding="utf-8")
    wrong = [
        path.name
        for path in _decisions()
        if path.name != "README.md"
        and f"[{path.name[:4]}]({path.name}) | {_title(path).partition(': ')[2]} |" not in index
    ]

    assert wrong == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a\n\n# a remark\nb  # exit 3\n", [("a", 0), ("b", 3)]),
        ("a \\\n  b\nc\n", [("a   b", 0), ("c", 0)]),
        ("$ a # exit 4\n", [("a", 4)]),
    ],
)
def test_a_block_is_read_as_its_commands(body: str, expected: list[tuple[str, int]]) -> None:
    """Remarks and empty lines are no commands, and a promised exit code is not part of one."""
    steps = steps_of(Block("a.md", 1, ("sh", "embedded"), body))

    assert [(step.command, step.code) for step in steps] == expected


def test_a_broken_promise_is_found(tmp_path: Path) -> None:
    """The first command that ends otherwise than promised is named, and nothing runs after it."""
    steps = [Step("a.md:1", "true", 0), Step("a.md:2", "false", 0), Step("a.md:3", "touch later", 0)]

    done = run_steps(steps, tmp_path, environment(tmp_path), timeout_s=10)

    assert done.failure.startswith("a.md:2: `false` ended with 1, not 0.")
    assert not (tmp_path / "later").exists()


# Helpers ---------------------------------------------------------------------------------------


def _all_blocks() -> list[Block]:
    return [block for file in DOCUMENTS for block in blocks_of(file)]


def _is_known(block: Block) -> bool:
    match block.info:
        case ("sh" | "console", kind):
            return kind in KINDS
        case ("text", *_) | ("python", "producer"):
            return True
        case _:
            return False


def _steps(file: str, kind: str) -> list[Step]:
    return [step for block in blocks_of(file) if kind in block.info[1:] for step in steps_of(block)]


def _lines(block: Block) -> list[str]:
    return [line.strip() for line in block.body.splitlines() if line.strip(" …")]


def _codes() -> Iterator[str]:
    for file in DOCUMENTS:
        yield from codes_of(file)


def _commands() -> dict[Path_, click.Command]:
    """Return every command that does something, by its path."""

    def walk(command: click.Command, path: Path_) -> Iterator[tuple[Path_, click.Command]]:
        if not isinstance(command, click.Group):
            yield path, command
            return
        for name, child in command.commands.items():
            yield from walk(child, (*path, name))

    return dict(walk(main, ()))


def _options(command: click.Command) -> list[tuple[str, ...]]:
    """Return the names of each option of a command; help is an option of all."""
    own = [tuple(one.opts) for one in command.params if isinstance(one, click.Option)]
    return [*own, ("-h", "--help")] if command is main else own


def _invocations() -> Iterator[tuple[str, Path_, str]]:
    """Yield what the documents write of the program: the code, the command's path, and the rest."""
    for code in _codes():
        is_whole = "privacy-ledger " in f"{code} "
        if not is_whole and code.split()[0] not in main.commands:
            continue
        for part in re.split(r"privacy-ledger(?= |$)", code)[1:] if is_whole else [code]:
            found = _resolved(part.split())
            if found is not None and (is_whole or len(found[0]) > 1 or found[0] in _commands()):
                yield code, *found


def _resolved(words: list[str]) -> tuple[Path_, str] | None:
    """Return a command's path and what follows, the group's own options passed over."""
    flags = {name: one for one in main.params if isinstance(one, click.Option) for name in one.opts}
    while words and words[0].startswith("-"):
        option = flags.get(words[0])
        words = words[1 if option is None or option.is_flag else 2 :]
    if not words or words[0] == "…":
        return None
    path: Path_ = ()
    command: click.Command | None = main
    while isinstance(command, click.Group) and words:
        path, command, words = (*path, words[0]), command.commands.get(words[0]), words[1:]
    return path, SUBSTITUTED.sub("", " ".join(words))


def _variables() -> Iterator[str]:
    """Yield the variables that the settings and the tests read."""
    modules = [ROOT / "src/privacy_ledger/settings.py", *(ROOT / "src/privacy_ledger/testing").rglob("*.py")]
    modules += (ROOT / "tests").rglob("*.py")
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                    if VARIABLE.fullmatch(name) and ast.unparse(function) in READERS:
                        yield name
                case _:
                    pass


def _decisions() -> list[Path]:
    return sorted((ROOT / ".github" / "decisions").glob("*.md"))


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
