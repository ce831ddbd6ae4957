"""The umbrella chart of a release: it runs the images that were built for it, by digest."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML

from tools.dev.charts.helm import Helm
from tools.dev.charts.workspace import SERVICES, UMBRELLA, Workspace
from tools.dev.release.versions import NotReleasable

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def read_digests(folder: Path) -> dict[str, str]:
    """The digest of each service's image, from the files `<service>.digest`.

    Raises:
        NotReleasable: one is missing, or is none.
    """
    found = {}
    for service in SERVICES:
        file = folder / f"{service}.digest"
        if not file.is_file():
            raise NotReleasable(f"there is no {file.name}: the image of {service} was not built")
        text = file.read_text().strip()
        if not _DIGEST.fullmatch(text):
            raise NotReleasable(f"{file.name} holds {text!r}, which is no digest")
        found[service] = text
    return found


def package(registry: str, digests: Mapping[str, str], output: Path) -> Path:
    """Pack the umbrella with these digests as its defaults; the file it made.

    Each service names the registry itself: `global.imageRegistry` would move NATS there too.
    """
    with Helm() as helm, tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.copy(helm, Path(folder))
        values = workspace.chart(UMBRELLA) / "values.yaml"
        yaml = YAML()
        yaml.preserve_quotes = True
        document = yaml.load(values)
        document["global"]["imageDigests"] = dict(digests)
        for service in SERVICES:
            document[service]["image"] = {"registry": registry}
        yaml.dump(document, values)
        workspace.build()
        output.mkdir(parents=True, exist_ok=True)
        told = helm.run(
            "package", str(workspace.chart(UMBRELLA)), "--destination", str(output.absolute())
        )
    return Path(told.strip().rpartition(": ")[2])
