#!/bin/sh
# Create the virtual environment $1 from the hash-pinned requirements, or bring it up to date; then touch $2 in it.
# The name of $2 is .ready- and a mark of this folder: an environment holds absolute paths, so in a copied or moved
# folder it would run the code of the old one.
# The interpreter is $PYTHON when set, else the first of the usual names that is recent enough.
set -eu

venv=$1
ready=$2
recent='import sys; sys.exit(sys.version_info < (3, 11))'

fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    for hint in "$@"; do printf 'hint: %s\n' "$hint" >&2; done
    exit 1
}

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null 2>&1 || fail "PYTHON=$PYTHON is not a command"
        "$PYTHON" -c 'pass' || fail "PYTHON=$PYTHON does not run"
        "$PYTHON" -c "$recent" ||
            fail "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1); Corgi needs Python 3.11 or newer"
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c "$recent" >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    if command -v python3 >/dev/null 2>&1; then
        fail "Corgi needs Python 3.11 or newer; python3 is $(python3 --version 2>&1)" \
            'install a newer one, or name it: make PYTHON=/path/to/python3.11'
    fi
    fail 'Corgi needs Python 3.11 or newer, and none was found' \
        'on Debian: apt-get install python3.11 python3.11-venv'
}

create() {
    python=$(choose_python)
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "$python cannot create virtual environments: its venv package is not installed" \
            "on Debian: apt-get install python$minor-venv (or python3-venv)"
    fi
    printf 'Creating %s with %s\n' "$venv" "$("$python" --version)"
    "$python" -m venv --clear "$venv"
}

usable() {
    for mark in "$venv"/.ready-*; do
        [ ! -e "$mark" ] || [ "$mark" = "$venv/$ready" ] || return 1
    done
    "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

usable || create

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"
}
printf 'Installing the pinned requirements\n'
# The pins are complete. Resolving them anew fails with older pips as soon as an index has a newer version of a
# package that another one names with an extra; so nothing is resolved, and what is missing is told by the check.
pip install --require-hashes --no-deps -r requirements-dev.txt
pip install --no-deps --no-build-isolation -e .
pip check
touch "$venv/$ready"
