#!/usr/bin/env bash
# Brings a checkout to where it can run (`setup.sh up`), test itself (`setup.sh test`) or run what is deployed as
# containers (`setup.sh containers`): system packages where root or sudo allows, a virtual environment with the pinned and
# hashed requirements, Debian's Prometheus unpacked into .run/. Says what it does, does nothing twice, starts nothing, and
# names what is missing where it may not install.
set -euo pipefail
purpose=${1:?usage: setup.sh up|test|containers}
cd "$(dirname "$0")/.."
mkdir -p .run/tools
exec 9>.run/setup.lock
flock 9

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# --- system packages: what a command needs, and the package that has it; none of them starts a service ---
# mariadb-server-core and not mariadb-server: the latter would start one.
wanted=(
  mariadbd:mariadb-server-core
  mariadb-install-db:mariadb-server-core
  my_print_defaults:mariadb-client-core
  setpriv:util-linux
)
if [[ $purpose == test ]]; then
  # The kernel modules are built against Debian's kernels and run in guests.
  wanted+=(
    qemu-system-x86_64:qemu-system-x86
    busybox:busybox-static
    cpio:cpio
    depmod:kmod
    gcc:gcc
    /usr/include/stdio.h:libc6-dev
    /usr/include/libelf.h:libelf-dev
    xz:xz-utils
    # The page is tested in a real browser.
    chromium:chromium
  )
fi
if [[ $purpose == containers ]]; then
  wanted+=(
    podman:podman
    runc:runc
    iptables:iptables
    debootstrap:debootstrap
    /usr/lib/podman/netavark:netavark
    /usr/lib/podman/aardvark-dns:aardvark-dns
    catatonit:catatonit
  )
fi

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  fail "Python 3.11 or newer is needed; '$python' is not. Name one: make PYTHON=/path/to/python3 ..."

missing=()
need() { [[ " ${missing[*]:-} " == *" $1 "* ]] || missing+=("$1"); }
for pair in "${wanted[@]}"; do
  name=${pair%%:*} package=${pair#*:}
  if [[ $name == /* ]]; then [[ -e $name ]] || need "$package"
  else PATH="$PATH:/usr/sbin:/sbin" command -v "$name" >/dev/null || need "$package"; fi
done
if [[ ! -x .venv/bin/python ]] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then need python3-venv; fi

if ((${#missing[@]})); then
  install=(apt-get install -y --no-install-recommends "${missing[@]}")
  if ! command -v apt-get >/dev/null; then
    fail "missing: ${missing[*]} (Debian's names); install them with this system's package manager"
  elif ((EUID == 0)); then as_root=()
  elif sudo -n true 2>/dev/null; then as_root=(sudo -n)
  else fail "missing packages, and neither root nor sudo to install them; run once: sudo ${install[*]}"
  fi
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  "${as_root[@]}" apt-get update -qq
  # Asked for all the same: a package that would start a service is stopped from it by this policy.
  "${as_root[@]}" env RUNLEVEL=1 "${install[@]}" -qq >.run/apt.log 2>&1 ||
    { tail -n 20 .run/apt.log >&2; fail "apt-get could not install ${missing[*]}; see .run/apt.log"; }
fi

# --- programs that are unpacked, not installed, for their packages would start them ---
unpack() { # PACKAGE: into .run/tools/PACKAGE
  say "unpacking Debian's $1 into .run/"
  local folder
  folder=$(mktemp -d .run/tools/download.XXXXXX)
  download() { (cd "$folder" && apt-get -o APT::Sandbox::User=root download -qq "$1" >../download.log 2>&1); }
  if download "$1" || { ((EUID == 0)) && apt-get update -qq && download "$1"; }; then
    dpkg -x "$folder/$1"_*.deb "$folder/root"
    rm -rf ".run/tools/$1"
    mv "$folder/root" ".run/tools/$1"
  elif [[ $purpose == test ]]; then
    cat .run/tools/download.log >&2
    rm -rf "$folder"
    fail "$1 cannot be had: neither on the PATH nor by 'apt-get download $1'"
  else
    say "$1 cannot be had here ('apt-get download $1' fails); going on without it"
  fi
  rm -rf "$folder"
}

prometheus=.run/tools/prometheus/usr/bin/prometheus
if [[ ! -x $prometheus ]] && command -v prometheus >/dev/null && command -v promtool >/dev/null; then
  mkdir -p "$(dirname $prometheus)"
  ln -sf "$(command -v prometheus)" "$prometheus"
  ln -sf "$(command -v promtool)" "$(dirname $prometheus)/promtool"
elif [[ ! -x $prometheus ]]; then
  unpack prometheus
fi
# Replicas of the bridge are tested behind it.
nginx=.run/tools/nginx/usr/sbin/nginx
if [[ $purpose == test && ! -x $nginx ]]; then
  if found=$(PATH="$PATH:/usr/sbin:/sbin" command -v nginx); then
    mkdir -p "$(dirname $nginx)"
    ln -sf "$found" "$nginx"
  else
    unpack nginx
  fi
fi

# --- the virtual environment ---
stamp=$(cat requirements.txt pyproject.toml | sha256sum)
if [[ ! -f .venv/stamp || $(<.venv/stamp) != "$stamp" ]]; then
  say "installing the pinned requirements into .venv (a minute or so)"
  [[ -x .venv/bin/python ]] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt \
    >.run/pip.log 2>&1 || { tail -n 20 .run/pip.log >&2; fail "pip could not install requirements.txt; see .run/pip.log"; }
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . \
    >.run/pip.log 2>&1 || { tail -n 20 .run/pip.log >&2; fail "pip could not install this checkout; see .run/pip.log"; }
  printf '%s\n' "$stamp" >.venv/stamp
fi

if [[ $purpose == test ]]; then
  kernels() { kmod/tests/fetch-kernels "$PWD/.run/kernels" 2>&1 | sed 's/^/setup: /'; }
  # Package lists may be old or absent where nothing had to be installed.
  kernels || { ((EUID == 0)) && apt-get update -qq && kernels; } || fail "the kernels to test the modules on cannot be had"
fi
say "ready"
