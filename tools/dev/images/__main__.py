"""`python -m tools.dev.images`: each image's environment from the index, and every module imported.

What the Dockerfiles do, but for the container: packages by hash and as wheels only, also for the
other architecture. One line for each image, status 1 if one would not build or not run.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tools.dev.images.environment import Environment, NotInstallable, PinNotHere, wheels_for
from tools.dev.images.image import IMAGES, Image, NotUnderstood, make

# What release.yml builds for, on the C library of Debian's current and last release.
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28")


def check(image: Image, folder: Path) -> str:
    """What to say of an image that is as it should be.

    Raises:
        NotInstallable, NotUnderstood, PinNotHere: it would not build.
        ImportError: it lacks something.
    """
    made = make(image, folder, fill=Environment.install)
    imports = made.environment.import_all(*image.packages)
    if imports.failed:
        raise ImportError("\n".join(f"{name}: {why}" for name, why in imports.failed.items()))
    for platform in PLATFORMS:
        # An environment without packages, so that each is looked for.
        empty = Environment(folder / platform)
        wheels_for(platform, image.requirements, empty.python)
    return f"{imports.imported} modules, wheels for {len(PLATFORMS)} architectures"


def main() -> int:
    failed = 0
    for image in IMAGES:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                said = check(image, Path(folder))
            except (ImportError, NotInstallable, NotUnderstood, PinNotHere) as error:
                failed += 1
                print(f"FAIL  {image.name}\n{error}")
            else:
                print(f"ok    {image.name:<12} {said}, {time.monotonic() - began:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
