from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tools.dev.charts.workspace import Helm, Object, Workspace


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """The charts, built in a folder of their own."""
    with Helm() as helm:
        built = Workspace.copy(helm, tmp_path_factory.mktemp("charts"))
        built.build()
        yield built


@pytest.fixture(scope="session")
def profile(workspace: Workspace) -> Callable[[str], list[Object]]:
    """The umbrella's objects with the values of one of `PROFILES`, rendered once a session."""
    rendered: dict[str, list[Object]] = {}

    def objects(name: str) -> list[Object]:
        if name not in rendered:
            rendered[name] = workspace.render("market-data-fanout", *workspace.profile(name))
        return rendered[name]

    return objects
