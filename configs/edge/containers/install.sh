#!/bin/sh
# Installs or updates a FedKeeper bridge in a container, on a board whose system is too old for ../install.sh.
#
#   sudo edge/containers/install.sh --wheel fedkeeper-0.2.0-py3-none-any.whl --name orin-3 jetpack6
#
# Copy the whole folder `edge` to the board. The script can be run again at any time, also after it was interrupted. It
# never overwrites bridge.env, which an operator edits, nor secrets.
set -eu

usage="usage: install.sh --wheel FILE [--name NAME] [--dry-run] cpu|jetpack6
       install.sh --remove [--dry-run]
  --wheel    the wheel of FedKeeper that the image gets
  --name     this board's name as a platform, unique among all boards: a-z, 0-9, -; by default the host's name
  --dry-run  print the steps without taking them
  --remove   removes the services and the images; keeps configuration, secrets, data and the volume
cpu trains on the CPU, with Debian 12; jetpack6 on the GPU of an Orin, with NVIDIA's image."

here=$(cd "$(dirname "$0")" && pwd)
# For tests: a folder that plays the root of the board.
root=${FEDKEEPER_TEST_LIVE:+$DESTDIR}
etc=$root/etc/fedkeeper
ours=$etc/containers
unit=$root/etc/systemd/system/fedkeeper-bridge@.service
wheel='' name='' image='' remove='' dry=''

for part in steps names; do
    # shellcheck source=/dev/null
    . "$here/../lib/$part.sh"
done

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
            --dry-run) dry=yes ;;
            --remove) remove=yes ;;
            -h | --help) echo "$usage"; exit 0 ;;
            --wheel | --name)
                { [ $# -gt 1 ] && [ -n "$2" ]; } || fail "$1 wants a value
$usage"
                case $1 in --wheel) wheel=$2 ;; --name) name=$2 ;; esac
                shift ;;
            cpu | jetpack6) image=$1 ;;
            *) fail "no such image or option: $1
$usage" ;;
        esac
        shift
    done
}

check_board() {
    [ -n "$dry" ] || [ "$(id -u)" = 0 ] || fail "run it as root: sudo $0 ..."
    docker compose version > /dev/null 2>&1 \
        || fail "Docker with its compose plugin is needed: sudo apt-get install docker.io docker-compose-v2"
}

check_image() {
    [ -n "$image" ] || fail "which image? cpu or jetpack6
$usage"
    { [ -n "$wheel" ] && [ -f "$wheel" ]; } || fail "which wheel? give --wheel FILE; \`python -m build --wheel\` in a checkout makes one"
    [ "$image" = cpu ] || docker info --format '{{json .Runtimes}}' | grep -q '"nvidia"' \
        || fail "Docker has no runtime 'nvidia': sudo apt-get install nvidia-container, then sudo systemctl restart docker"
}

# A name that was written before stays: the board's clients are registered with it.
check_name() {
    written=$(sed -n 's/^FEDKEEPER_PLATFORM=//p' "$ours/bridge.env" 2> /dev/null || true)
    [ -z "$name" ] || [ -z "$written" ] || [ "$name" = "$written" ] \
        || fail "this board's name is $written, in $ours/bridge.env; change it there, and move its clients to $name"
    name=${name:-${written:-$(name_of_host)}}
    check_legal "$name"
}

install_files() {
    run install -d -m 755 "$etc" "$ours" "$root/srv/fedkeeper" "$(dirname "$unit")"
    run install -d -m 700 "$etc/secrets"
    for file in cpu.Dockerfile jetpack6.Dockerfile compose.yml; do put 644 "$here/$file" "$ours/$file"; done
    keep 644 "$here/bridge.env" "$ours/bridge.env" "s|^FEDKEEPER_PLATFORM=.*|FEDKEEPER_PLATFORM=$name|"
    # The image takes the only wheel in the folder. The given one may be that of a former run.
    run cp "$wheel" "$ours/wheel.new"
    run rm -f "$ours"/fedkeeper-*.whl
    run mv -f "$ours/wheel.new" "$ours/$(basename "$wheel")"
}

start() {
    other=cpu
    [ "$image" != cpu ] || other=jetpack6
    put 644 "$here/fedkeeper-bridge@.service" "$unit"
    run systemctl daemon-reload
    run systemctl disable --now "fedkeeper-bridge@$other.service"
    run systemctl enable "fedkeeper-bridge@$image.service"
    to_write=''
    ! grep -qs 'backbone\.example\.org' "$ours/bridge.env" || to_write="
  $ours/bridge.env"
    [ -s "$etc/secrets/broker-password" ] || to_write="$to_write
  $etc/secrets/broker-password"
    if [ -n "$to_write" ]; then
        echo "To be written, with your own values:$to_write
then: sudo systemctl restart fedkeeper-bridge@$image"
    else
        run systemctl restart "fedkeeper-bridge@$image.service"
    fi
}

remove_everything() {
    [ ! -e "$unit" ] || run systemctl disable --now fedkeeper-bridge@cpu.service fedkeeper-bridge@jetpack6.service
    run rm -f "$unit"
    run systemctl daemon-reload
    for each in cpu jetpack6; do run docker image rm --force "fedkeeper-bridge:$each"; done
    echo "removed. Kept: $etc with its secrets, /srv/fedkeeper, the volume fedkeeper_state. Remove the board's clients from the
register: fedkeeper clients remove."
}

parse "$@"
check_board
if [ -n "$remove" ]; then
    remove_everything
    exit
fi
check_image
check_name
install_files
# The newest security updates of the base image come with --pull.
run docker build --pull --tag "fedkeeper-bridge:$image" --file "$ours/$image.Dockerfile" "$ours"
start
echo "The platform's name is $name. No other board may have it."
