# How a step is taken: printed first, not taken in a dry run, and repeatable if it was interrupted.
# shellcheck shell=sh disable=SC2154,SC2034 # the variables are install.sh's

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

# shown TEXT...: prints it without the user information of URLs, such as the password of a package index.
shown() {
    printf '%s\n' "$*" | sed 's|//[^/@ ]*@|//...@|g'
}

# Runs a command that changes something.
run() {
    echo "+ $(shown "$@")"
    [ -n "$dry" ] || "$@"
}

# Runs a program of the system that is installed to, as a step.
run_inside() {
    if is_whole; then run chroot "$root" "$@"; else run "$@"; fi
}

# put MODE SOURCE TARGET [SED-EXPRESSION]: writes a file whole or not at all; others can't read it before it has its mode.
put() {
    echo "+ write $3"
    [ -z "$dry" ] || return 0
    (umask 077 && sed -e "${4:-}" "$2" > "$3.new")
    chmod "$1" "$3.new"
    mv -f "$3.new" "$3"
}

# The same for a file that an operator may edit: one that exists stays.
keep() {
    if [ -e "$3" ]; then echo "= $3 is there, and stays as it is"; else put "$@"; fi
}

# Runs systemctl for this machine, or for the image, in which nothing runs.
control() {
    if [ -n "$image" ]; then run systemctl --root="${root:-/}" "$@"; else run systemctl "$@"; fi
}
