#!/bin/bash
# setup.sh: the pinned Python environment on a rented machine, in ~/venv.
#
# The launcher runs it on every node before Ray starts. A second run with the same pins returns at
# once. uv fetches Python 3.11 itself, because the cloud images have another one.
set -euo pipefail

project=$(cd "$(dirname "$0")/../.." && pwd)
venv=${DIFFMIX_VENV:-$HOME/venv}
wanted=$(cat "$project/constraints.txt" "$project/pyproject.toml" | sha256sum)
if [ "$(cat "$venv/installed" 2> /dev/null || true)" = "$wanted" ]; then
    exit 0
fi

export PATH=$HOME/.local/bin:$PATH
if ! command -v uv > /dev/null; then
    # Newer Debian and Ubuntu refuse `pip install --user` without this variable.
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv==0.13.9
fi
uv venv --quiet --clear --python 3.11 "$venv"
uv pip install --quiet --python "$venv/bin/python" --constraint "$project/constraints.txt" \
    --editable "${project}[attention,8bit,clip,cloud]"

# `ray up`, `ray exec` and `ray attach` open login shells, which read this file.
line="export PATH=$venv/bin:\$PATH RAY_AUTH_MODE=token"
grep -qxF "$line" "$HOME/.bashrc" 2> /dev/null || echo "$line" >> "$HOME/.bashrc"
echo "$wanted" > "$venv/installed"
