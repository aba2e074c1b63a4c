#!/usr/bin/env bash
# Brings a checkout to where it can run (`setup.sh up`), be worked on (`setup.sh dev`: every library), test itself
# (`setup.sh test`: a browser, kernels and an emulator too) or run what is deployed as containers (`setup.sh containers`):
# system packages where root or sudo allows, a virtual environment with the pinned and hashed requirements, Debian's
# Prometheus unpacked into .run/. Says what it does, does nothing twice, starts nothing, and names what is missing where
# it may not install.
set -euo pipefail
purpose=${1:?usage: setup.sh up|dev|test|containers}
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
  else
    as=$(command -v sudo >/dev/null && echo 'sudo ' || :)
    fail "these packages are missing, and may not be installed from here; run once${as:-, as root,}, then this again:
  ${as}apt-get update && ${as}${install[*]}"
  fi
  say "installing Debian's ${missing[*]}$( ((${#missing[@]} < 5)) || echo ' (a minute or so)')"
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
# To see Latido run, no one waits for what only tests and load tests need: that is two thirds.
libraries=all files=(requirements.txt)
if [[ $purpose == up ]]; then libraries=up files=(packaging/container/requirements.txt dev/requirements.txt); fi
pins=$(cat requirements.txt packaging/container/requirements.txt dev/requirements.txt pyproject.toml | sha256sum | cut -d ' ' -f 1)
found=$(cat .venv/stamp 2>/dev/null || :)

pip() { .venv/bin/python -m pip install --disable-pip-version-check "$@" 2>&1; }
told() { # NUMBER: keeps what pip says in its log, and says how far it is
  local line count=0
  while IFS= read -r line; do
    printf '%s\n' "$line" >>.run/pip.log
    case $line in
      Collecting\ *) if ((++count % 20 == 0)); then say "$count of $1"; fi ;;
      Installing\ collected\ *) say "all are here; putting them into .venv/" ;;
    esac
  done
}
if [[ $found != "$pins all" && $found != "$pins $libraries" ]]; then
  count=$(sed -n 's/^\([a-z0-9._-]*\)==.*/\1/p' "${files[@]}" | sort -u | wc -l)
  say "installing $count pinned libraries into .venv/ (half a minute, or two where the network or the machine is slow)"
  : >.run/pip.log
  [[ -x .venv/bin/python ]] || "$python" -m venv .venv
  rm -f .venv/stamp
  pip --require-hashes "${files[@]/#/--requirement=}" | told "$count" ||
    { tail -n 20 .run/pip.log >&2; fail "pip could not install ${files[*]}; see .run/pip.log"; }
  pip --no-deps --no-build-isolation --editable . >>.run/pip.log ||
    { tail -n 20 .run/pip.log >&2; fail "pip could not install this checkout; see .run/pip.log"; }
  printf '%s\n' "$pins $libraries" >.venv/stamp
fi

if [[ $purpose == test ]]; then
  kernels() { kmod/tests/fetch-kernels "$@" "$PWD/.run/kernels" 2>&1 | sed 's/^/setup: /'; }
  # Package lists may be old or absent where nothing had to be installed; or lack the newer kernel's source for good.
  kernels || { ! ((EUID == 0)) || apt-get update -qq; kernels --offered; } ||
    fail "the kernels to test the modules on cannot be had"
fi
say "ready"
