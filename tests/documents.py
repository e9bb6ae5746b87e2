"""The command blocks of the documents, and the commands in them."""

import re
import shlex
from dataclasses import dataclass

from tests.conftest import PROJECT

DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md"))]
#: Languages of blocks that hold commands. Those of the others are shown, not run.
SHELL, COMMANDS = "sh", ("sh", "bash", "python", "sql", "crontab")
SHOWN = ("", "text", "yaml", "json")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block as a person would paste them, one after the other, without their comments."""
        commands, pending = [], ""
        for line in self.text.splitlines():
            pending += line + "\n"
            if line.endswith("\\"):
                continue
            try:
                words = shlex.split(pending, comments=True)
            except ValueError:  # a quote that is still open
                continue
            if words:
                commands.append(re.sub(r"\s+# .*$", "", pending.strip()))
            pending = ""
        assert not pending, f"{self.document}, line {self.line}: the block ends within a command"
        return commands


def blocks(document: str) -> list[Block]:
    """The fenced blocks of a document."""
    text = (PROJECT / document).read_text(encoding="utf-8")
    return [
        Block(document, text[: match.start()].count("\n") + 1, match[1], match[2])
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def block(document: str, start: str) -> Block:
    """The one block of a document that holds a text."""
    (found,) = [block for block in blocks(document) if start in block.text]
    return found


def command(document: str, part: str) -> str:
    """The one command of a document's shell blocks that holds a text."""
    found = [text for block in blocks(document) if block.language == SHELL for text in block.commands if part in text]
    assert len(found) == 1, f"{document}: {part} is in {len(found)} commands"
    return found[0]
