"""The Dockerfiles, and whether what they install is enough for what they run."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from tools.dev.images.environment import Environment, PinNotHere, pins
from tools.dev.images.image import IMAGES, Image, Made, make

ROOT = Path(__file__).resolve().parents[2]
# Of the web board: its page, and what lies beyond a link.
BOARD = (("index.html",), *(("sdk", path.name) for path in ROOT.glob("clients/js/src/*.js")))
every_image = pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Image], Made]:
    """The environment of an image, made once."""
    known: dict[str, Made] = {}

    def get(image: Image) -> Made:
        if image.name not in known:
            known[image.name] = make(image, tmp_path_factory.mktemp(image.name))
        return known[image.name]

    return get


@every_image
def test_an_image_has_all_that_its_modules_import(
    image: Image, made: Callable[[Image], Made]
) -> None:
    imports = made(image).environment.import_all(*image.packages)
    assert imports.failed == {}
    assert imports.imported > 30


@every_image
def test_what_an_image_starts_gets_as_far_as_its_settings(
    image: Image, made: Callable[[Image], Made]
) -> None:
    environment = made(image).environment
    done = environment.run("-m", image.entry, HTTP_PORT="eighty", SIM_PORT="eighty")
    assert done.returncode == 2
    assert "eighty" in done.stderr
    assert "Traceback" not in done.stderr


@every_image
def test_an_image_holds_its_own_service_and_nothing_that_is_only_for_development(
    image: Image, made: Callable[[Image], Made]
) -> None:
    files = [PurePosixPath(file) for file in made(image).files if ".dist-info" not in file]
    holds = {file.parts[1] for file in files if len(file.parts) > 2 and file.parts[0] == "services"}
    if image.name == "tools":
        assert holds == {"common", *(other.name for other in IMAGES if other is not image)}
    else:
        assert holds == {"common", image.name}
        assert {file.parts[0] for file in files} == {"services"}
    board = [PurePosixPath("services/gateway/http/web", *name) for name in BOARD]
    assert set(board) <= {*files} or image.name not in ("gateway", "tools")
    assert not [file for file in files if {"tests", "testing", "testing.py"} & {*file.parts}]
    documents = {PurePosixPath("services/ingestor/openapi.json")} & {*files}
    assert len(documents) == (image.name in ("ingestor", "tools"))
    data = ("tools/simulator/market/products.toml", "tools/simulator/protocol/fields.toml")
    suffixes = {file.suffix for file in {*files} - documents - {*map(PurePosixPath, data)}}
    assert suffixes <= {".py", ".typed", ".html", ".css", ".js", ".svg"}


# ---------------------------------------------------------------- the check sees what is wrong


def without(image: Image, package: str, folder: Path) -> Environment:
    """The environment of an image whose extra forgot a package."""
    kept = [line for line in map(str, pins(image.requirements)) if not line.startswith(package)]
    (folder / "pins.txt").write_text("\n".join(kept))
    environment = Environment(folder / "app")
    environment.link(folder / "pins.txt")
    return environment


@pytest.mark.parametrize(
    ("name", "package"),
    [("ingestor", "httpx"), ("snapshotter", "aiobotocore"), ("gateway", "fastapi")],
)
def test_a_package_that_an_extra_forgot_is_missed(
    name: str, package: str, made: Callable[[Image], Made], tmp_path: Path
) -> None:
    (image,) = (image for image in IMAGES if image.name == name)
    environment = without(image, package, tmp_path)
    shutil.copytree(
        made(image).environment.packages / "services", environment.packages / "services"
    )
    failed = environment.import_all(*image.packages).failed
    assert failed
    assert all(f"No module named '{package}" in why for why in failed.values())


def test_a_service_that_reaches_into_another_one_is_found(
    made: Callable[[Image], Made], tmp_path: Path
) -> None:
    (image,) = (image for image in IMAGES if image.name == "normalizer")
    environment = Environment(tmp_path / "app")
    environment.link(image.requirements)
    services = environment.packages / "services"
    shutil.copytree(made(image).environment.packages / "services", services)
    (services / "normalizer" / "borrowed.py").write_text(
        "import services.gateway.websocket.rfc6455.frames\n"
    )
    failed = environment.import_all(*image.packages).failed
    assert failed == {"services.normalizer.borrowed": "No module named 'services.gateway'"}


def test_a_pin_that_is_not_what_the_tests_ran_on_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pins.txt").write_text("msgspec==0.0.1\n")
    with pytest.raises(PinNotHere, match=r"msgspec==0\.0\.1 is pinned"):
        Environment(tmp_path / "app").link(tmp_path / "pins.txt")


# ---------------------------------------------------------------- the files themselves


@every_image
def test_the_pins_are_those_of_the_extra(image: Image) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"][image.name]]
    text = image.requirements.read_text()
    direct = {
        re.split(r"[=\[ ]", entry)[0]
        for entry in re.split(r"\n(?=\w)", text)
        if "market-data-fanout (pyproject.toml)" in entry
    }
    assert direct == {re.split(r"[\[ ]", name)[0] for name in wanted}
