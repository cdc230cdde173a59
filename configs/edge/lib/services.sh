# Starts the services, and stops and removes what is not wanted any more.
# shellcheck shell=sh disable=SC2154,SC2034 # the variables are install.sh's

failed=0
to_write=''
waiting=''

stop() {
    run systemctl stop "$1" || true
}

# discard UNIT...: disables and stops units, of which not all may be there.
discard() {
    for unit; do
        if [ -n "$image" ]; then control disable "$unit" || true; else control disable --now "$unit" || true; fi
    done
}

leave_former_broker() {
    if [ "$broker" != nats ] && [ -e "$units/fedkeeper-nats.service" ]; then remove_nats; fi
    if [ "$broker" != mosquitto ] && [ -e "$units/mosquitto.service.d/fedkeeper.conf" ]; then remove_mosquitto; fi
}

remove_nats() {
    discard fedkeeper-nats.service
    run rm -f "$units/fedkeeper-nats.service"
}

# The drop-in goes last: an interrupted run finds it, and Mosquitto never runs with the settings of Debian.
remove_mosquitto() {
    discard fedkeeper-relay.service mosquitto.service
    run rm -f "$units/fedkeeper-relay.service"
    remove_drop_in mosquitto.service.d/fedkeeper.conf
}

# Removes our drop-in of a unit; what an operator wrote with `systemctl edit` stays.
remove_drop_in() {
    [ -d "$units/${1%/*}" ] || return 0
    run rm -f "$units/$1"
    run rmdir --ignore-fail-on-non-empty "$units/${1%/*}"
}

remove_everything() {
    if [ -e "$units/fedkeeper-bridge.service" ]; then discard fedkeeper-bridge.service; fi
    broker=none
    leave_former_broker
    remove_drop_in fedkeeper-bridge.service.d/local.conf
    run rm -f "$units/fedkeeper-bridge.service" "$root/usr/lib/sysusers.d/fedkeeper.conf"
    [ -n "$image" ] || run systemctl daemon-reload
    run rm -rf "$home"
    echo "removed. Kept: $etc with its secrets, your own changes of units, /var/lib/fedkeeper*, the packages and
groups of the system, the user fedkeeper-nats. Remove the board's clients from the register: fedkeeper clients remove."
}

# has_all FILE...: whether all files that a service needs are complete; adds the others to what is to be written.
has_all() {
    complete=yes
    for needed; do
        # The shipped files have a placeholder for the backbone's address.
        { [ -s "$needed" ] && ! grep -q 'backbone\.example\.org' "$needed"; } && continue
        complete=''
        case "$to_write" in *"  $needed
"*) ;; *) to_write="$to_write  $needed
" ;; esac
    done
    [ -n "$complete" ]
}

# start UNIT FILE...: enables the unit, and starts it if it has its files and waits for no other unit.
start() {
    unit=$1
    shift
    if is_folder && [ "$unit" = mosquitto.service ]; then
        echo "the image needs the package mosquitto, which enables its service"
    else
        control enable "$unit"
    fi
    has_all "$@" || { waiting="$waiting $unit" && return 0; }
    [ -z "$image" ] || return 0
    [ -z "$waiting" ] || { waiting="$waiting $unit" && return 0; }
    run systemctl restart "$unit" && return 0
    failed=1
    echo "install.sh: $unit did not start; journalctl -u $unit says why" >&2
}

start_services() {
    [ -n "$image" ] || run systemctl daemon-reload
    case $broker in
        nats) start fedkeeper-nats.service "$etc/nats-leaf.secret" ;;
        mosquitto)
            start mosquitto.service "$root/etc/mosquitto/fedkeeper.passwd"
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

summarize() {
    echo
    [ -n "$dry" ] || echo "/opt/fedkeeper has $(du -sm "$home" | cut -f 1) MB."
    if [ -n "$name" ]; then
        echo "The platform's name is $name$from. No other board may have it."
    else
        echo "The platform's name will be that of the board's host. No other board may have it."
    fi
    if [ -n "$to_write" ]; then
        printf 'To be written, with your own values:\n%s' "$to_write"
    fi
    if [ -n "$image" ]; then
        echo "The services start with the board."
    elif [ -n "$waiting" ]; then
        echo "then: sudo systemctl restart$waiting"
    else
        echo "systemctl status fedkeeper-bridge says how it does"
    fi
}
