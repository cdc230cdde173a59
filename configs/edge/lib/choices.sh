# What was chosen, at this run or a former one. A run that updates needs no options but --wheel.
# shellcheck shell=sh disable=SC2154,SC2034 # the variables are install.sh's

# former NAME: prints what the former run chose.
former() {
    [ ! -r "$etc/choices" ] || sed -n "s/^$1=//p" "$etc/choices"
}

recall_choices() {
    former_torch=$(former torch)
    [ -n "$bridge" ] || bridge=$(former bridge)
    [ -n "$broker" ] || broker=$(former broker)
    [ -n "$torch" ] || [ "$bridge" != local ] || torch=$former_torch
    [ -n "$index" ] || [ "$torch" != "$former_torch" ] || index=$(former index)
    # Earlier versions left no such file.
    [ -n "$bridge" ] || [ ! -e "$units/fedkeeper-bridge.service.d/local.conf" ] || bridge=local
    [ -n "$broker" ] || [ ! -e "$units/fedkeeper-nats.service" ] || broker=nats
    [ -n "$broker" ] || [ ! -e "$units/mosquitto.service.d/fedkeeper.conf" ] || broker=mosquitto
    bridge=${bridge:-openfaas} broker=${broker:-none}
}

check_choices() {
    case $bridge in openfaas | local) ;; *) fail "--bridge is openfaas or local, not $bridge" ;; esac
    case $broker in none | nats | mosquitto) ;; *) fail "--broker is none, nats or mosquitto, not $broker" ;; esac
    [ "$bridge" = local ] || [ -z "$torch$index" ] || fail "--torch and --index are for --bridge local: a bridge to OpenFaaS needs no torch"
}

remember_choices() {
    run install -d -m 755 "$etc"
    [ -z "$dry" ] || return 0
    # Another torch leaves none of the former one's libraries: these are gigabytes.
    if [ "$bridge" = local ] && [ "$torch" != none ] && [ -n "$former_torch" ] && [ "$torch" != "$former_torch" ]; then
        mark_incomplete
    fi
    [ "$bridge" = local ] || { torch=$former_torch && index=$(former index); }
    # An address of an index may hold a password.
    (umask 077 && printf '# What install.sh installed.\nbridge=%s\nbroker=%s\ntorch=%s\nindex=%s\n' \
        "$bridge" "$broker" "$torch" "$index" > "$etc/choices.new")
    mv -f "$etc/choices.new" "$etc/choices"
}

# The name that the bridge's file has, or none. That of the other bridge counts when --bridge changes.
written_name() {
    local_name=$(sed -n 's/^FEDKEEPER_PLATFORM=//p' "$etc/local.env" 2> /dev/null || true)
    # Earlier versions called every board that trains by itself so.
    [ -n "$local_name" ] || ! grep -qs -e '--platform edge ' "$units/fedkeeper-bridge.service.d/local.conf" || local_name=edge
    openfaas_name=$(sed -n 's/^name = "\(.*\)".*/\1/p' "$etc/bridge.toml" 2> /dev/null || true)
    if [ "$bridge" = local ]; then echo "${local_name:-$openfaas_name}"; else echo "${openfaas_name:-$local_name}"; fi
}

check_name() {
    written=$(written_name)
    file=$etc/bridge.toml
    [ "$bridge" != local ] || file=$etc/local.env
    if [ -n "$name" ] && [ -n "$written" ] && [ "$name" != "$written" ] && grep -qs "=.*$written" "$file"; then
        fail "this board's name is $written, in $file; change it there, and move its clients to $name"
    fi
    name=${name:-$written}
    from=''
    if [ -z "$name" ] && [ -n "$image" ]; then
        # Many boards may be written from one image: local.conf takes the name of each one's own host. The files of a bridge to
        # OpenFaaS and of the relay can't.
        if [ "$bridge" = local ] && [ "$broker" != mosquitto ]; then return 0; fi
        fail "give --name: for an image, only --bridge local without Mosquitto can take the name of the board's host when it starts"
    fi
    if [ -z "$name" ]; then
        from=", of this host's name"
        name=$(name_of_host)
    fi
    check_legal "$name"
}
