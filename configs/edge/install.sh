#!/bin/sh
# Installs, updates or removes a FedKeeper bridge on a board: Debian or Ubuntu with systemd, arm64 or amd64.
#
#   sudo ./install.sh --wheel fedkeeper-0.2.0-py3-none-any.whl
#
# Copy the whole folder to the board: the script reads the files beside it. It can be run again at any time, also after
# it was interrupted. It never overwrites files that an operator edits. Secrets are files in /etc/fedkeeper/secrets,
# never arguments.
#
# With DESTDIR it writes into the root file system of an image below that folder (lib/image.sh), and starts nothing.
# shellcheck disable=SC2034,SC2154 # the files in lib/ read and set the variables
set -eu

usage="usage: install.sh --wheel FILE [--bridge openfaas|local] [--broker none|nats|mosquitto] [--name NAME]
                  [--torch cpu|cuda|none|SPEC] [--index URL] [--python PROGRAM] [--dry-run]
       install.sh --remove [--dry-run]
  --wheel    the wheel of FedKeeper to install
  --bridge   openfaas: calls the functions of an OpenFaaS; local: trains by itself, installs torch
  --broker   a broker on this board: nats, a leaf node of the backbone; mosquitto, with a relay to the backbone
  --name     this board's name as a platform, unique among all boards: a-z, 0-9, -; by default the host's name
  --torch    for --bridge local. cpu: a build without CUDA; cuda: PyPI's build; none: the one that is already installed;
             SPEC: a requirement, or a wheel's path or URL
  --index    the package index from which pip gets torch
  --python   Python 3.11 or newer, if it is not one of the system's
  --dry-run  print the steps without taking them
  --remove   removes the services and the program; keeps configuration, secrets and data
What is not given stays as it was installed before; at first openfaas, none and cpu."

here=$(cd "$(dirname "$0")" && pwd)
# DESTDIR=/ is an image as well: that of a chroot in which this script runs.
image=${DESTDIR:+yes}
root=${DESTDIR:-}
root=${root%/}
# For tests: the folder plays the root of a running system.
[ -z "${FEDKEEPER_TEST_LIVE:-}" ] || image=''
home=$root/opt/fedkeeper
etc=$root/etc/fedkeeper
units=$root/etc/systemd/system
wheel='' bridge='' broker='' name='' torch='' index='' python='' remove='' dry=''

for part in steps names system image choices program configuration services; do
    # shellcheck source=/dev/null
    . "$here/lib/$part.sh"
done

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
            --dry-run) dry=yes ;;
            --remove) remove=yes ;;
            -h | --help) echo "$usage"; exit 0 ;;
            --wheel | --bridge | --broker | --name | --torch | --index | --python)
                { [ $# -gt 1 ] && [ -n "$2" ]; } || fail "$1 wants a value
$usage"
                set_option "$1" "$2"
                shift ;;
            *) fail "no such option: $1
$usage" ;;
        esac
        shift
    done
}

set_option() {
    case $1 in
        --wheel) wheel=$2 ;;
        --bridge) bridge=$2 ;;
        --broker) broker=$2 ;;
        --name) name=$2 ;;
        --torch) torch=$2 ;;
        --index) index=$2 ;;
        --python) python=$2 ;;
    esac
}

parse "$@"
if [ -n "$remove" ]; then
    check_rights
    remove_everything
    exit
fi
check_wheel
recall_choices
check_choices
check_image
check_system
find_python
check_name
check_torch
check_space

remember_choices
leave_former_broker
# Before the package is installed: its installation starts Mosquitto.
[ "$broker" != mosquitto ] || configure_mosquitto
install_packages
install_program
add_accounts
if [ "$bridge" = local ]; then ask_device; fi
install_bridge
install_broker
# A power cut must not take files that the services below are started with.
run sync
start_services
summarize
exit "$failed"
