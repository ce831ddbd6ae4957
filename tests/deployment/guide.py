"""The operations guide and its shell commands, their variables filled in."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from string import Template

from tools.dev.charts.workspace import ROOT

FOLDER = ROOT / "docs"
DOCUMENTS = [FOLDER / "operations.md", *sorted((FOLDER / "operations").glob("*.md"))]
# What the guide lets the reader set, and stands for here.
VARIABLES = {
    "AWS_REGION": "us-east-1",
    "AWS_ACCOUNT_ID": "111122223333",
    "CLUSTER": "market",
    "NAMESPACE": "market-data",
    "RELEASE": "market-data",
    "VERSION": "0.1.0",
    "S3_BUCKET": "market-data-111122223333",
    "DDB_TABLE": "market-latest",
    "REGISTRY": "111122223333.dkr.ecr.us-east-1.amazonaws.com",
    "HOST": "ticks.example.com",
    "CERTIFICATE_ARN": "arn:aws:acm:us-east-1:111122223333:certificate/yours",
    "SERVICE_ACCOUNT": "market-data-gateway",
    "OIDC_PROVIDER": "oidc.eks.us-east-1.amazonaws.com/id/EXAMPLE",
    "JOB": "doctor",
    "ARGS": '["doctor"]',
}


@dataclass(frozen=True)
class Command:
    """One simple command, its variables filled in."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"[:110]

    def values_of(self, option: str) -> list[str]:
        return [
            after for word, after in zip(self.words, self.words[1:], strict=False) if word == option
        ]


def simple_commands(block: str) -> Iterator[tuple[str, ...]]:
    """The words of each simple command of a block; those of a `for` loop once for each value."""
    text = re.sub(r"(^|\s)#.*$", "", block.replace("\\\n", " "), flags=re.M)
    for inner in re.findall(r"\$\((.*?)\)", text):
        yield from simple_commands(inner)
    text = re.sub(r"\$\(.*?\)", "substituted", text)
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|()\n")
    lexer.commenters = ""
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    loops: list[tuple[str, list[str]]] = []
    words: list[str] = []

    def ended() -> Iterator[tuple[str, ...]]:
        while words and words[0] in ("do", "export"):
            words.pop(0)
        while words and re.match(r"[A-Z][A-Z0-9_]*=", words[0]):
            words.pop(0)
        if not words:
            return
        if words[0] == "for":
            loops.append((words[1], words[3:]))
        elif words[0] == "done":
            loops.pop()
        else:
            for values in product(*(values for _, values in loops)):
                names = dict(zip((name for name, _ in loops), values, strict=True))
                yield tuple(Template(word).safe_substitute(VARIABLES | names) for word in words)
        words.clear()

    for token in lexer:
        if set(token) <= set(";&|()\n"):
            yield from ended()
        else:
            words.append(token)
    yield from ended()


def commands() -> list[Command]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for indent, block in re.findall(r"^( *)```sh\n(.*?)^ *```$", text, re.M | re.S):
            plain = re.sub(rf"^{indent}", "", block, flags=re.M)
            found += [Command(document.name, words) for words in simple_commands(plain)]
        # Commands inside a sentence.
        for inline in re.findall(r"`((?:mdf|make|kubectl|python -m|aws|helm) [^`]+)`", text):
            found += [Command(document.name, words) for words in simple_commands(inline)]
    return found


COMMANDS = commands()


def of(program: str) -> list[Command]:
    return [command for command in COMMANDS if command.words[0] == program]
