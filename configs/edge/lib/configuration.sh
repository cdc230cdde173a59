# The units, and the files that an operator edits.
# shellcheck shell=sh disable=SC2154,SC2034 # the variables are install.sh's

# Where a bridge on this board connects to: its own broker, or the backbone, of which only the operator knows the address.
broker_address() {
    case $broker in
        nats) echo nats://edge@127.0.0.1:4222 ;;
        mosquitto) echo mqtt://edge@127.0.0.1:1883 ;;
        none) echo tls://edge@backbone.example.org:4222 ;;
    esac
}

install_bridge() {
    address="s|tls://edge@backbone.example.org:4222|$(broker_address)|"
    run install -d -m 755 "$etc" "$units"
    run install -d -m 700 "$etc/secrets"
    put 644 "$here/fedkeeper-bridge.service" "$units/fedkeeper-bridge.service"
    if [ "$bridge" = local ]; then
        run install -d -m 755 "$units/fedkeeper-bridge.service.d"
        put 644 "$here/local.conf" "$units/fedkeeper-bridge.service.d/local.conf"
        install_local_settings
    else
        remove_drop_in fedkeeper-bridge.service.d/local.conf
        keep 644 "$here/bridge.toml" "$etc/bridge.toml" "$address
s|^name = \"edge\"|name = \"$name\"|"
        install_openfaas_secrets
    fi
}

install_local_settings() {
    if [ -n "$name" ] && [ -e "$etc/local.env" ] && ! grep -q '^FEDKEEPER_PLATFORM=' "$etc/local.env"; then
        echo "= $etc/local.env has no name for the board, and gets one; the rest stays as it is"
        put 644 "$etc/local.env" "$etc/local.env" "\$ a FEDKEEPER_PLATFORM=$name"
    else
        # Without a name, the unit takes that of the host.
        keep 644 "$here/local.env" "$etc/local.env" "$address
s|^FEDKEEPER_DEVICE=.*|FEDKEEPER_DEVICE=$device|
${name:+s|^#FEDKEEPER_PLATFORM=.*|FEDKEEPER_PLATFORM=$name|}"
    fi
    written=$(sed -n 's/^FEDKEEPER_DEVICE=//p' "$etc/local.env" 2> /dev/null || true)
    [ -n "$dry" ] || [ "$written" = "$device" ] || echo "= FEDKEEPER_DEVICE in it is '$written', and the installed torch works with $device"
}

install_openfaas_secrets() {
    faasd=/var/lib/faasd/secrets/basic-auth-password
    # Of a building machine no secret gets into an image.
    if [ -z "$image" ] && [ -f "$root$faasd" ]; then keep 600 "$root$faasd" "$etc/secrets/openfaas-password"; fi
    [ -z "$image" ] || { echo "= $etc/secrets/openfaas-key is made when install.sh runs on the board" && return 0; }
    [ ! -e "$etc/secrets/openfaas-key" ] || return 0
    echo "+ write $etc/secrets/openfaas-key"
    [ -z "$dry" ] || return 0
    (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -dc 0-9a-f > "$etc/secrets/openfaas-key.new")
    mv -f "$etc/secrets/openfaas-key.new" "$etc/secrets/openfaas-key"
}

# Mosquitto's own file, and the unit's drop-in that names it and waits for the password file.
configure_mosquitto() {
    run install -d -m 755 "$etc" "$units/mosquitto.service.d"
    keep 644 "$here/mosquitto.conf" "$etc/mosquitto.conf"
    put 644 "$here/mosquitto-fedkeeper.conf" "$units/mosquitto.service.d/fedkeeper.conf"
    [ -n "$image" ] || run systemctl daemon-reload
    # One that runs already has another configuration, with which anybody may read everything.
    [ -n "$image" ] || [ -s "$root/etc/mosquitto/fedkeeper.passwd" ] || stop mosquitto.service
}

install_broker() {
    case $broker in
        mosquitto)
            keep 644 "$here/relay.toml" "$etc/relay.toml" "s|^platforms = \\[\"edge\"\\]|platforms = [\"$name\"]|"
            put 644 "$here/fedkeeper-relay.service" "$units/fedkeeper-relay.service"
            ;;
        nats)
            keep 644 "$here/nats-leaf.conf" "$etc/nats-leaf.conf"
            put 644 "$here/fedkeeper-nats.service" "$units/fedkeeper-nats.service"
            ;;
    esac
}

# Asks the installed torch which device works here: `device` for a new local.env.
ask_device() {
    device=cpu
    if [ -n "$image" ]; then
        echo "the device is cpu until you ask on the board: /opt/fedkeeper/bin/python -P -m client_fn.training.device cuda"
        return 0
    fi
    echo "+ $home/bin/python -P -m client_fn.training.device"
    [ -z "$dry" ] || return 0
    answer=$("$home/bin/python" -P -m client_fn.training.device) || true
    printf '%s\n' "$answer"
    device=$(printf '%s\n' "$answer" | tail -n 1)
    case $device in cuda | cpu) ;; *) fail "the installed torch can't be used on this machine" ;; esac
}
