"""What the pages tell a reader to do: files to write and commands to type, in their order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>[^`\n]*)$")
_TITLE = re.compile(r'title="(?P<path>[^"]+)"')
_EXIT_CODE = re.compile(r"#.*\bexit code (?P<code>\d+)")


@dataclass(frozen=True)
class File:
    """A block with a title: the file of that name, as the reader has it from here on."""

    path: str
    text: str


@dataclass(frozen=True)
class Command:
    """A line that begins with ``$ `` in a block of ``console``, and what the page shows below it."""

    page: str
    line: int
    text: str
    shown: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """What the comment at its end says, else 0."""
        said = _EXIT_CODE.search(self.text)
        return int(said["code"]) if said else 0

    @property
    def typed(self) -> str:
        """Without the comment, and with single blanks."""
        return " ".join(re.sub(r"\s+#.*$", "", self.text).split())

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def page_names() -> list[str]:
    """Every page and the README, by its path from the root."""
    pages = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return ["README.md", *pages]


def source(page: str) -> str:
    """The page's Markdown."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[int, str, list[str]]]:
    """Fenced blocks: the number of the first line inside, the info string, the lines."""
    found: list[tuple[int, str, list[str]]] = []
    end: str | None = None
    indent, inside = 0, []
    for number, line in enumerate(text.splitlines(), start=1):
        opened = _FENCE.match(line)
        if end is None and opened:
            end, indent, inside = opened["fence"], len(opened["indent"]), []
            found.append((number + 1, opened["info"].strip(), inside))
        elif end is not None and line.strip() == end:
            end = None
        elif end is not None:
            inside.append(line[indent:])
    assert end is None, "a block is never closed"
    return found


def steps(page: str) -> list[File | Command]:
    """What a reader of the page does, in order."""
    done: list[File | Command] = []
    for first, info, lines in blocks(source(page)):
        if title := _TITLE.search(info):
            done.append(File(title["path"], "\n".join(lines) + "\n"))
        if info.split(" ")[0] == "console":
            done += _commands(page, first, lines)
    return done


def commands(page: str) -> list[Command]:
    """The commands of the page."""
    return [step for step in steps(page) if isinstance(step, Command)]


def _commands(page: str, first: int, lines: list[str]) -> list[Command]:
    made: list[Command] = []
    for number, line in enumerate(lines, start=first):
        if line.startswith("$ "):
            made.append(Command(page, number, line[2:], ()))
        elif line.strip():
            assert made, f"{page}:{number}: output without a command"
            last = made[-1]
            made[-1] = Command(page, last.line, last.text, (*last.shown, line.rstrip()))
    return made
