from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tools.charts.helm import Helm
from tools.charts.workspace import Object, Workspace


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """The charts, built in a folder of their own."""
    with Helm() as helm:
        built = Workspace.copy(helm, tmp_path_factory.mktemp("charts"))
        built.build()
        yield built


@pytest.fixture(scope="session")
def profile(workspace: Workspace) -> Callable[[str], list[Object]]:
    """The umbrella's objects with one of its values files, rendered once a session."""
    rendered: dict[str, list[Object]] = {}

    def objects(file: str) -> list[Object]:
        if file not in rendered:
            rendered[file] = workspace.render("market-data-fanout", workspace.profile(file))
        return rendered[file]

    return objects
