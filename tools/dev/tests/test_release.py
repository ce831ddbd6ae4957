"""A release has one version, and its chart runs its own images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tools.dev.charts.kubernetes import pods
from tools.dev.charts.workspace import ROOT, SERVICES, Helm
from tools.dev.release import NotReleasable, main, read_digests, released, versions

REGISTRY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
DIGESTS = {name: f"sha256:{index:064x}" for index, name in enumerate(SERVICES, 1)}


@pytest.fixture
def digests(tmp_path: Path) -> Path:
    folder = tmp_path / "digests"
    folder.mkdir()
    for name, digest in {**DIGESTS, "tools": "sha256:" + "f" * 64}.items():
        (folder / f"{name}.digest").write_text(digest + "\n")
    return folder


def test_every_place_states_the_same_version_and_its_tag_releases_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (version,) = set(versions(ROOT).values())
    assert main(["version", f"v{version}"]) == 0
    assert capsys.readouterr().out == f"{version}\n"


@pytest.mark.parametrize("tag", ["0.1.0", "v9.9.9", "release"])
def test_a_tag_that_says_another_version_releases_nothing(
    tag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["version", tag]) == 1
    assert capsys.readouterr().out == ""


def test_a_chart_that_was_forgotten_is_named(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder in ("helm", "charts"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    version = versions(tmp_path)["pyproject.toml"]
    chart = tmp_path / "helm/gateway/Chart.yaml"
    chart.write_text(chart.read_text().replace(f"version: {version}", "version: 0.0.9", 1))
    with pytest.raises(NotReleasable, match=r"helm/gateway/Chart.yaml version is 0\.0\.9"):
        released(tmp_path, f"v{version}")


@pytest.mark.charts
def test_the_packed_chart_runs_the_images_that_were_built_and_nats_from_where_it_is(
    digests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chart", REGISTRY, str(digests), str(tmp_path / "out")]) == 0
    packed = capsys.readouterr().out.strip()
    with Helm() as helm:
        rendered = helm.run("template", "market-data", packed, "--namespace", "market-data")
        shown = helm.run("show", "chart", packed)
    assert yaml.safe_load(shown)["version"] == versions(ROOT)["pyproject.toml"]
    images = {
        container["image"]
        for pod in pods(item for item in yaml.safe_load_all(rendered) if item)
        for container in pod.containers
    }
    ours = {f"{REGISTRY}/market-data-fanout/{name}@{DIGESTS[name]}" for name in SERVICES}
    assert ours <= images
    assert all(image.startswith("nats:") for image in images - ours)


def test_a_missing_or_malformed_digest_stops_the_release(digests: Path) -> None:
    assert read_digests(digests) == DIGESTS
    (digests / "gateway.digest").write_text("latest")
    with pytest.raises(NotReleasable, match="no digest"):
        read_digests(digests)
    (digests / "gateway.digest").unlink()
    with pytest.raises(NotReleasable, match="gateway was not built"):
        read_digests(digests)
