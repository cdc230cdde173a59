# The names of boards: each is a platform, whose name is part of topics.
# shellcheck shell=sh

# Prints this host's name as that of a platform.
name_of_host() {
    uname -n | sed 's/\..*//' | tr '[:upper:]' '[:lower:]' | tr -c 'a-z0-9\n' '-' | cut -c 1-40 | sed 's/^-*//; s/-*$//'
}

# check_legal NAME: ends the script if no platform can have this name.
check_legal() {
    case $1 in
        '' | localhost) fail "give --name: the name of this host, '$(uname -n)', is no name for a board" ;;
        *[!a-z0-9-]*) fail "--name '$1': only a-z, 0-9 and - are possible, at most 40 of them" ;;
    esac
    [ ${#1} -le 40 ] || fail "--name '$1': only a-z, 0-9 and - are possible, at most 40 of them"
}
