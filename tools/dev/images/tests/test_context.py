"""`.dockerignore` and COPY, read as a builder reads them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.dev.images.image import Ignore, NotUnderstood, assemble, copies, files_below

RULES = """\
# nothing but what is named
*
!README.md
!src
**/tests
**/*.md
!README.md
src/private
"""


@pytest.mark.parametrize(
    ("path", "excluded"),
    [
        ("Makefile", True),
        ("README.md", False),
        ("src/a.py", False),
        ("src/deep/b.py", False),
        ("src/NOTES.md", True),
        ("src/tests/test_a.py", True),
        ("src/deep/tests/test_b.py", True),
        ("src/testsuite/c.py", False),
        ("src/private/key", True),
        ("src/private.py", False),
        ("srcs/a.py", True),
    ],
)
def test_the_last_rule_that_matches_a_path_or_its_folder_decides(path: str, excluded: bool) -> None:
    assert Ignore(RULES).excludes(path) is excluded


DOCKERFILE = """\
FROM base AS build
COPY README.md LICENSE ./
COPY src src
COPY src/a.py alone/
COPY src/a.py renamed.py

FROM base
COPY --from=build /opt/app /opt/app
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("README.md", "LICENSE", "src/a.py", "src/tests/t.py", "src/__pycache__/a.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "elsewhere").mkdir()
    (root / "src/linked").symlink_to("../elsewhere", target_is_directory=True)
    (root / ".dockerignore").write_text(RULES.replace("!src", "!src\n!LICENSE"))
    (root / "Dockerfile").write_text(DOCKERFILE)
    return root


def test_files_come_to_where_the_copy_lines_say(repository: Path, tmp_path: Path) -> None:
    target = tmp_path / "work"
    assemble(repository, repository / "Dockerfile", target)
    assert (target / "src/linked").readlink() == Path("../elsewhere")
    found = {str(file.relative_to(target)) for file in target.rglob("*") if file.is_file()}
    assert found == {"README.md", "LICENSE", "src/a.py", "alone/a.py", "renamed.py"}


def test_a_source_that_the_context_lacks_stops_as_a_build_would(
    repository: Path, tmp_path: Path
) -> None:
    (repository / ".dockerignore").write_text("*\n")
    with pytest.raises(NotUnderstood, match=r"COPY README\.md: nothing of that name"):
        assemble(repository, repository / "Dockerfile", tmp_path / "work")


@pytest.mark.parametrize(
    "change",
    [
        ("COPY src src", "COPY --chown=1 src src"),
        ("COPY src src", "COPY src/*.py src"),
        ("COPY src src", "ADD src src"),
        ("COPY --from=build /opt/app /opt/app", "COPY src /opt/app/src"),
        ("FROM base AS build", ""),
    ],
)
def test_what_is_not_understood_is_refused(change: tuple[str, str]) -> None:
    copies(DOCKERFILE)
    with pytest.raises(NotUnderstood):
        copies(DOCKERFILE.replace(*change))


def test_nothing_that_serves_tests_alone_is_in_an_image() -> None:
    # Named by what it is, or by what it says of itself in its first line.
    root = Path(__file__).parents[4]
    ignore = Ignore((root / ".dockerignore").read_text())
    # What nobody named stays out of a build.
    assert ignore.excludes(".env")
    assert ignore.excludes("clients/js/node_modules/x/index.js")
    shipped = [*files_below(root, "services", ignore), *files_below(root, "tools", ignore)]
    assert "services/gateway/__main__.py" in shipped
    python = [path for path in shipped if path.endswith(".py")]
    named = [path for path in python if re.search(r"(^|/)(test|testing|tests)(_|\.|/)", path)]
    assert named == []
    said = [path for path in python if (root / path).read_text().startswith('"""For tests')]
    assert said == []
