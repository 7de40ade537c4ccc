#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs NVIDIA's perf_analyzer into a virtual environment:  tests/install_perf_analyzer.sh VENV
#
# `make perf-analyzer` calls it. The binary comes from the wheel on PyPI, which wants the C library of Debian 13
# or Ubuntu 24.04 (glibc 2.38). On an older Debian, the C and C++ runtimes of Debian 13 are unpacked beside it,
# through apt with Debian's own signatures, and the binary is started by their loader. Nothing of the system
# changes; root is not needed.
set -euo pipefail
venv=$(cd "${1:?usage: install_perf_analyzer.sh VENV}" && pwd)
version=2.60.0
home="$venv/lib/perf_analyzer"
command="$venv/bin/perf_analyzer"

staging=$(mktemp -d "$venv/lib/perf_analyzer.XXXXXX")
trap 'rm -rf "$staging"' EXIT

"$venv/bin/python" -m pip download --quiet --no-deps --only-binary=:all: --platform manylinux_2_38_x86_64 \
    --dest "$staging" "perf-analyzer==$version"
"$venv/bin/python" - "$staging" <<'PY'
import pathlib
import sys
import zipfile

staging = pathlib.Path(sys.argv[1])
(wheel,) = staging.glob("perf_analyzer-*.whl")
with zipfile.ZipFile(wheel) as archive:
    (staging / "perf_analyzer").write_bytes(archive.read("perf_analyzer/bin/perf_analyzer"))
wheel.unlink()
PY
chmod 755 "$staging/perf_analyzer"

start="\"$home/perf_analyzer\""
libraries=$(ldd "$staging/perf_analyzer" 2>&1 || true)
if [[ "$libraries" == *"not found"* ]]; then
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    if [ ! -e "$keyring" ]; then
        echo "error: perf_analyzer $version needs glibc 2.38, which this system has not" >&2
        echo "  fix: use Debian 12 or later, or Ubuntu 24.04 or later" >&2
        exit 1
    fi
    # Wherever this system gets its packages from is reachable; the first source named is taken.
    mirror=$({
        sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources
        sed -n 's/^deb \(\[[^]]*\] \)\?\(http[^ ]*\).*/\2/p' /etc/apt/sources.list
        true # either may be missing
    } 2> /dev/null | head -n 1)
    apt="$staging/apt"
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    echo "deb [signed-by=$keyring] ${mirror:-http://deb.debian.org/debian} trixie main" > "$apt/sources.list"
    options=(-qq -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::Etc::SourceList=$apt/sources.list" -o Debug::NoLocking=1 -o APT::Sandbox::User=)
    apt-get "${options[@]}" update
    (cd "$apt" && apt-get "${options[@]}" download libc6 libstdc++6 libgcc-s1 zlib1g libssl3t64 libzstd1)
    for package in "$apt"/*.deb; do dpkg -x "$package" "$staging/runtime"; done
    rm -rf "$apt"
    lib="$home/runtime/usr/lib/x86_64-linux-gnu"
    start="\"$lib/ld-linux-x86-64.so.2\" --library-path \"$lib\" \"$home/perf_analyzer\""
fi

rm -rf "$home"
mv "$staging" "$home"
chmod 755 "$home"
printf '#!/bin/sh\nexec %s "$@"\n' "$start" > "$home/start"
chmod 755 "$home/start"
"$home/start" --version
ln -sf "$home/start" "$command"
