# What this system must have, and the packages that it gets.
# shellcheck shell=sh disable=SC2154,SC2034 # the variables are install.sh's

check_wheel() {
    [ -n "$wheel" ] || fail "which wheel? give --wheel FILE; \`python -m build --wheel\` in a checkout makes one"
    [ -f "$wheel" ] || [ -n "$dry" ] || fail "there is no $wheel"
}

check_rights() {
    [ -z "$image" ] || return 0
    [ -n "$dry" ] || [ "$(id -u)" = 0 ] || fail "run it as root: sudo $0 ..."
    [ -n "$dry" ] || [ -d "$root/run/systemd/system" ] \
        || fail "systemd does not run here; start \`fedkeeper bridge\` by other means (in a chroot for an image: DESTDIR=/)"
}

check_system() {
    system=unknown
    ! is_whole || OS_RELEASE=$root/etc/os-release
    # shellcheck disable=SC1090 # a file of variables
    [ ! -r "${OS_RELEASE:=/etc/os-release}" ] || system=$(. "$OS_RELEASE" && echo "${ID:-unknown} ${ID_LIKE:-}")
    case " $system " in
        *" debian "* | *" ubuntu "*) ;;
        *) fail "this is made for Debian and Ubuntu, not for '$system'; docs/edge.md says what it does, to do it by hand" ;;
    esac
    arch=$(inside dpkg --print-architecture) || fail "the programs of $root do not run here; if they are for another \
architecture, install qemu-user-static and binfmt-support"
    case $arch in arm64 | amd64) ;; *) fail "arm64 or amd64 is needed (this is $arch): there is no torch for others" ;; esac
    check_rights
    is_folder || [ -n "$dry" ] || check_systemd "$(inside systemctl --version)"
}

# check_systemd VERSION-TEXT: LoadCredential=, by which the services get their secrets, came with systemd 247.
check_systemd() {
    version=$(printf '%s\n' "$1" | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    [ "${version:-0}" -ge 247 ] || fail "systemd 247 or newer is needed, and this is ${version:-none} (Ubuntu 20.04 and JetPack 5 \
have 245): run \`fedkeeper bridge\` in a container there, or by other means"
}

new_enough() {
    inside "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null
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
    inside "$python" -c 'import ensurepip, venv' 2> /dev/null || packages="$(basename "$python")-venv"
    [ "$broker" != mosquitto ] || [ -n "$image" ] || packages="$packages mosquitto"
    [ -n "$packages" ] || return 0
    [ -z "$image" ] || fail "install $packages in the image first; nothing is installed there by apt-get from here"
    run apt-get update
    # shellcheck disable=SC2086 # a list
    run apt-get install -y --no-install-recommends $packages
}

# The group of each kind of GPU device must exist, or the bridge's unit does not start; the leaf node has a user.
add_accounts() {
    run install -d -m 755 "$root/usr/lib/sysusers.d"
    put 644 "$here/sysusers.conf" "$root/usr/lib/sysusers.d/fedkeeper.conf"
    if is_folder; then
        # An /etc/passwd of its own must not be copied over that of a system.
        echo "to be run in the image: systemd-sysusers fedkeeper.conf"
    elif [ -n "$root" ]; then
        run systemd-sysusers --root="$root" fedkeeper.conf
    else
        run systemd-sysusers fedkeeper.conf
    fi
}
