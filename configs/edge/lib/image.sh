# An image below DESTDIR: either a whole system, whose own programs are run by chroot (of this architecture, or of another
# that binfmt_misc and qemu-user-static run), or a folder that is copied over such a system later. The building machine
# stays as it is.
# shellcheck shell=sh disable=SC2154,SC2034 # the variables are install.sh's

# is_whole: the image has a Python of its own.
is_whole() {
    [ -n "$image" ] && [ -n "$root" ] && [ -e "$root/usr/bin/python3" ]
}

# is_folder: the image is a folder that is copied over a system later.
is_folder() {
    [ -n "$image" ] && [ -n "$root" ] && ! is_whole
}

# Runs a program of the system that is installed to.
inside() {
    if is_whole; then chroot "$root" "$@"; else "$@"; fi
}

# inside_path PATH: prints the path as programs see it that `inside` runs.
inside_path() {
    if is_whole; then echo "${1#"$root"}"; else echo "$1"; fi
}

check_image() {
    [ -n "$image" ] || return 0
    case $root in '' | /*) ;; *) fail "DESTDIR is an absolute path, not $root" ;; esac
    for needed in systemctl systemd-sysusers; do
        command -v "$needed" > /dev/null || fail "$needed is needed for an image too: it adds to files there, and starts nothing"
    done
    is_folder && return 0
    [ -z "$root" ] || [ "$(id -u)" = 0 ] || fail "run it as root: $root is a whole system, and its programs are run by chroot"
    [ "$broker" != mosquitto ] || [ -n "$dry" ] || [ -e "$root/usr/sbin/mosquitto" ] \
        || fail "install the package mosquitto in the image first"
}

# Makes the program of a folder without Python right for its later place: pip wrote the paths of the building machine.
relocate() {
    is_folder || return 0
    echo "+ relocate $home to /opt/fedkeeper"
    [ -z "$dry" ] || return 0
    "$python" - "$home" << 'END'
import pathlib, shutil, sys

home = pathlib.Path(sys.argv[1])
for file in [*(home / "bin").iterdir(), home / "pyvenv.cfg"]:
    if file.is_symlink() or not file.is_file():
        continue
    content = file.read_bytes()
    if b"\0" not in content:
        file.write_bytes(content.replace(bytes(home), b"/opt/fedkeeper"))
for folder in [*home.rglob("__pycache__")]:
    shutil.rmtree(folder, ignore_errors=True)
END
    # The services can't write there. A file that is no Python is not compiled, and does not matter.
    "$python" -m compileall -q -s "$root" -p / "$home/lib" > /dev/null || true
    found=$(readlink -f "$home/bin/python")
    echo "the image needs $("$python" --version) as $found, for $arch"
}
