"""The parser of the documents finds every command that a reader would paste."""

import re

import pytest

from tests.conftest import PROJECT
from tests.documents import CANNOT_RUN, CANNOT_RUN_BLOCKS, DOCUMENTS, in_sentences, is_part, unparsed


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_of_a_document_is_parsed(document: str) -> None:
    """The command in a block that is not parsed would be neither run nor listed in CANNOT_RUN."""
    assert unparsed((PROJECT / document).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "block",
    [
        "    make run\n",
        "- a list:\n  ```sh\n  make run\n  ```\n",
        "- ```sh\n  make run\n  ```\n",
        "1. ```sh\n   make run\n   ```\n",
        "> ```sh\n> make run\n> ```\n",
        "```sh title\nmake run\n```\n",
        '```sh {title="x"}\nmake run\n```\n',
        "``` sh\nmake run\n```\n",
        "~~~sh\nmake run\n~~~\n",
        "````sh\nmake run\n````\n",
        "```sh\nmake run\n",
        "<pre>make run</pre>\n",
    ],
)
def test_a_block_that_the_parser_does_not_know_is_found(block: str) -> None:
    assert unparsed(f"A text.\n\n{block}")
    assert unparsed("A text with `code`.\n\n```sh\nmake run\n```\n\n- a list\n\n  in two parts\n") == []


def test_commands_in_sentences_are_found_and_names_are_not() -> None:
    text = "Run `mlflow run .\n-e serve` or `ENV=x make run`, as `make` and `mlflow` do; `source` names data.\n"
    assert in_sentences(text + "\n```sh\nmake test\n```\n") == ["mlflow run . -e serve", "ENV=x make run"]


def test_a_part_of_a_command_ends_with_a_word() -> None:
    assert is_part("mlflow run . -e serve", "mlflow run . -e serve \\\n  -P env=x")
    assert not is_part("mlflow run . -e serv", "mlflow run . -e serve -P env=x")


def test_a_reason_names_files_that_are_there() -> None:
    reasons = " ".join((CANNOT_RUN | CANNOT_RUN_BLOCKS).values())
    named = re.findall(r"[\w./]+\.(?:py|yml)", reasons)
    assert named
    assert [path for path in named if not (PROJECT / path).is_file()] == []
