#!/bin/bash
# Makes .venv: `make` calls it whenever the pins, pyproject.toml, the folder or the Python changed.
#
# Only what requirements/*.txt pin is installed, by hash, each for itself: nothing is resolved, so
# nothing that was published later can change a set-up. `pip check` then proves the pins complete.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv
OLDEST=3.12
# The newest for which every pin has a wheel; a newer one is tried, and named if a pin is missing.
NEWEST=3.14

say() { printf '%s\n' "$*" >&2; }

# Everything that may be a Python: by its version first, the best known first, then by what pyenv
# holds (a `.python-version` that names one that is not installed hides all others on PATH).
candidates() {
  local name version root
  for version in 3.12 3.13 3.14; do printf 'python%s\n' "$version"; done
  printf 'python3\npython\n'
  if root=$(pyenv root 2>/dev/null); then
    for version in 3.12 3.13 3.14 3; do
      for name in "$root"/versions/"$version"*/bin/python; do printf '%s\n' "$name"; done
    done
  fi
}

# The program behind a candidate, if it is new enough: a shim hides which one it is, and the Python
# of an activated environment may be the very one that is to be removed.
resolve() {
  "$1" -c 'import sys
if sys.version_info < tuple(map(int, sys.argv[1].split("."))):
    sys.exit(1)
print(getattr(sys, "_base_executable", sys.executable))' "$OLDEST" 2>/dev/null
}

find_python() {
  local name
  while IFS= read -r name; do
    if resolve "$name"; then return; fi
  done < <(candidates)
  say "No Python of at least $OLDEST was found (tried python3.12, python3.13, python3.14, python3, python, pyenv's)."
  say "Install one (for example 'pyenv install 3.12') and run this again."
  return 1
}

PYTHON=$(find_python)
if ! "$PYTHON" -c 'import venv, ensurepip' >/dev/null 2>&1; then
  say "$PYTHON has no venv module. On Debian: apt-get install python3-venv"
  exit 1
fi

# What the environment was made of, and where: scripts in it hold the folder's path.
made_of() {
  printf '%s\n%s\n' "$PWD" "$PYTHON"
  cat requirements/build.txt requirements/dev.txt
}

# pip, told nothing by this machine's settings that would put packages elsewhere.
pip() {
  env -u PIP_TARGET -u PIP_PREFIX -u PIP_USER -u PIP_NO_DEPS -u PIP_REQUIRE_HASHES \
    "$VENV/bin/python" -m pip --disable-pip-version-check "$@"
}

# install_pins FILE. One package has no wheel and is built by the pinned setuptools.
install_pins() {
  pip install -qq --no-deps --require-hashes --no-build-isolation \
    --only-binary :all: --no-binary forbiddenfruit -r "$1" && return
  say ""
  say "$("$VENV/bin/python" --version) on $(uname -sm): a package of $1 could not be installed; the lines above name it."
  say "Pins are proven on Python $OLDEST to $NEWEST. On a newer one the package named may not have been built yet."
  exit 1
}

if ! { "$VENV/bin/python" -c '' && made_of | cmp -s - "$VENV/.made-of"; } >/dev/null 2>&1; then
  say "Setting up $VENV with $("$PYTHON" --version) (once; about a minute)..."
  rm -rf "$VENV"
  "$PYTHON" -m venv "$VENV"
  install_pins requirements/build.txt
  install_pins requirements/dev.txt
fi
pip install -qq --no-deps --no-build-isolation --editable .
pip check >/dev/null || { pip check >&2; exit 1; }
made_of >"$VENV/.made-of"
