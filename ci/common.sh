# shellcheck shell=bash
# What the scripts of this folder share: source it from the root of the repository.
#
#   say "text"              one progress line
#   prepare extra...        .venv with the package in place, its extras, and up-to-date kernels
#   python                  the Python of .venv, once prepare has run
#   find_python             the path of a Python that is new enough
#
# PYTHON=/path/to/python3.x chooses the interpreter that .venv is made with.

case $(uname -s) in
  MINGW* | MSYS* | CYGWIN*) venv_bin=.venv/Scripts ;;
  *) venv_bin=.venv/bin ;;
esac

say() {
  if [ -t 2 ]; then printf '\033[1m==> %s\033[0m\n' "$*" >&2; else printf '==> %s\n' "$*" >&2; fi
}

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

python() { "$venv_bin/python" "$@"; }

pip_install() { python -m pip install --quiet --disable-pip-version-check "$@"; }

# A Python that runs, is new enough and can make environments (a distribution's may lack ensurepip).
is_usable() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
  local name path
  for name in ${PYTHON:+"$PYTHON"} python3 python3.{14,13,12,11} python; do
    path=$(type -P "$name") || continue
    if is_usable "$path"; then
      printf '%s\n' "$path"
      return
    fi
  done
  die "no Python >= 3.11 with the venv module was found; set PYTHON=/path/to/python3.x"
}

# requirements build|run|<extra>...: what pyproject.toml names, one per line
requirements() {
  python - "$@" <<'PY'
import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    tables = tomllib.load(file)
project = tables["project"]
for name in sys.argv[1:]:
    if name == "build":
        found = tables["build-system"]["requires"]
    elif name == "run":
        found = project["dependencies"]
    else:
        found = project["optional-dependencies"][name]
    print(*found, sep="\n")
PY
}

prepare() {
  if ! { [ -x "$venv_bin/python" ] && is_usable "$venv_bin/python"; }; then
    local found
    found=$(find_python)
    say "making .venv with $found ($("$found" --version))"
    "$found" -m venv --clear .venv
  fi

  # A stamp per extra holds the pyproject.toml that it was installed from, so that a second run
  # needs no network.
  local missing=() extra
  for extra in run "$@"; do
    cmp -s pyproject.toml ".venv/.installed-$extra" || missing+=("$extra")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    say "installing requirements: ${missing[*]}"
    requirements build "${missing[@]}" >.venv/requirements.txt
    pip_install -r .venv/requirements.txt
    for extra in "${missing[@]}"; do cp pyproject.toml ".venv/.installed-$extra"; done
  fi

  if ! cmp -s <(cat pyproject.toml setup.py) .venv/.installed-package; then
    say "installing fusedloss in place: compiling the kernels takes a minute or two"
    pip_install --no-build-isolation --no-deps --editable .
    cat pyproject.toml setup.py >.venv/.installed-package
  else
    python setup.py --quiet build_ext --inplace >.venv/build.log 2>&1 || {
      cat .venv/build.log >&2
      die "the kernels do not compile"
    }
  fi
}
