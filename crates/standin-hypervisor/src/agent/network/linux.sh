# Gives one network card of a Linux guest its addresses, now and after every boot, by whatever keeps the guest's
# network. Run by the guest agent as root, with the settings as variables before it:
#
#   mac                        the card's hardware address, lower case
#   addresses4, addresses6     with their prefix, separated by blanks
#   gateways4, gateways6, dns  likewise, without a prefix
#   dhcp4, dhcp6               yes or no
#
# Says "interface NAME" and "by TOOL" on success; "temporary" too when a reboot loses it. POSIX shell: a guest may
# have no other.
set -eu
PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin
LC_ALL=C
export PATH LC_ALL

fail() {
    echo "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
active() { have systemctl && systemctl -q is-active "$1"; }
patiently() { if have timeout; then timeout 60 "$@"; else "$@"; fi; }
# It is installed, and nobody forbade it.
may_enable() {
    case $(systemctl is-enabled "$1" 2>/dev/null || true) in
    enabled | enabled-runtime | disabled | indirect) true ;;
    *) false ;;
    esac
}
plain=$(echo "$mac" | tr -d :)

# A bond, a bridge or a VLAN may have the card's address too; only the card itself has a device.
find_card() {
    for dir in /sys/class/net/*; do
        [ -e "$dir/device" ] || continue
        read -r found <"$dir/address" || continue
        if [ "$found" = "$mac" ]; then
            echo "${dir##*/}"
            return
        fi
    done
}

# The gateways of a family as NetworkManager wants them: the first one in place of a route, if there are addresses.
routes_beyond() {
    zero=$1 skip=$2 metric=100 routes=
    shift 2
    for gateway in "$@"; do
        if [ "$skip" = yes ]; then
            skip=no
            continue
        fi
        metric=$((metric + 100))
        routes="$routes${routes:+,}$zero $gateway $metric"
    done
    echo "$routes"
}
first() { echo "${1:-}"; }
commas() { echo "$*" | tr -s ' ' ','; }
servers() {
    for server in $dns; do
        case $server in
        *:*) [ "$1" = 4 ] || echo "$server" ;;
        *) [ "$1" = 6 ] || echo "$server" ;;
        esac
    done
}

# shellcheck disable=SC2086  # lists of addresses are words
by_network_manager() {
    method4=disabled method6=auto gateway4= gateway6= static4=no static6=no
    if [ -n "$addresses4" ]; then method4=manual static4=yes gateway4=$(first $gateways4); fi
    if [ -n "$addresses6" ]; then method6=manual static6=yes gateway6=$(first $gateways6); fi
    [ "$dhcp4" = no ] || method4=auto
    nmcli -w 10 connection delete "standin-$plain" >/dev/null 2>&1 || true
    nmcli -w 10 connection add save yes type ethernet con-name "standin-$plain" ifname "$card" \
        802-3-ethernet.mac-address "$mac" connection.autoconnect yes connection.autoconnect-priority 999 \
        ipv4.method "$method4" ipv4.addresses "$(commas $addresses4)" ipv4.gateway "$gateway4" \
        ipv4.routes "$(routes_beyond 0.0.0.0/0 $static4 $gateways4)" ipv4.dns "$(commas $(servers 4))" \
        ipv6.method "$method6" ipv6.addresses "$(commas $addresses6)" ipv6.gateway "$gateway6" \
        ipv6.routes "$(routes_beyond ::/0 $static6 $gateways6)" ipv6.dns "$(commas $(servers 6))" >/dev/null
    nmcli -w 45 connection up "standin-$plain" >/dev/null
    echo by NetworkManager
}

networkd_file() {
    # The type keeps bonds and VLANs with the same address out.
    printf '# Written at a failover.\n[Match]\nMACAddress=%s\nType=ether\n\n[Network]\n' "$mac"
    case $dhcp4$dhcp6 in
    yesyes) echo DHCP=yes ;;
    yesno) echo DHCP=ipv4 ;;
    noyes) echo DHCP=ipv6 ;;
    *) echo DHCP=no ;;
    esac
    [ -z "$gateways6" ] || [ -z "$addresses6" ] || echo IPv6AcceptRA=no
    for address in $addresses4 $addresses6; do echo "Address=$address"; done
    for server in $dns; do echo "DNS=$server"; done
    metric=0
    for gateway in $gateways4 $gateways6; do
        metric=$((metric + 100))
        printf '\n[Route]\nGateway=%s\nGatewayOnLink=yes\nMetric=%s\n' "$gateway" "$metric"
    done
}

by_networkd() {
    mkdir -p /etc/systemd/network
    # First by name: the first file that matches is the one that counts.
    networkd_file >"/etc/systemd/network/00-standin-$plain.network"
    systemctl -q enable systemd-networkd >&2
    for scope in global site; do ip addr flush dev "$card" scope "$scope"; done
    systemctl restart systemd-networkd
    nameservers
    echo by systemd-networkd
}

# Takes every stanza about the card out of a file of ifupdown.
without_card() {
    awk -v card="$card" '
        $1 ~ /^(iface|mapping|auto|allow-.*|no-auto-down|no-scripts|source|source-directory|rename)$/ { skip = 0 }
        $1 == "iface" && $2 == card { skip = 1 }
        $1 == "auto" || $1 ~ /^allow-/ {
            line = $1
            for (i = 2; i <= NF; i++) if ($i != card) line = line " " $i
            if (line != $1) print line
            next
        }
        !skip { print }' "$1"
}

ifupdown_stanzas() {
    printf '# Written at a failover.\nauto %s\n' "$card"
    [ "$dhcp4" = no ] || printf 'iface %s inet dhcp\n' "$card"
    [ "$dhcp6" = no ] || printf 'iface %s inet6 auto\n' "$card"
    first=yes
    for address in $addresses4 $addresses6; do
        case $address in
        *:*) family=inet6 gateways=$gateways6 ;;
        *) family=inet gateways=$gateways4 ;;
        esac
        [ "$family" = "${last:-}" ] || first=yes
        printf 'iface %s %s static\n    address %s\n' "$card" "$family" "$address"
        last=$family
        [ "$first" = yes ] || continue
        first=no metric=0
        [ -z "$dns" ] || printf '    dns-nameservers %s\n' "$dns"
        if [ "$family" = inet6 ] && [ -n "$gateways6" ]; then printf '    accept_ra 0\n    autoconf 0\n'; fi
        for gateway in $gateways; do
            metric=$((metric + 100))
            printf '    post-up ip route replace default via %s dev %s onlink metric %s || true\n' \
                "$gateway" "$card" "$metric"
        done
    done
}

by_ifupdown() {
    # A configuration that is still being brought up would fight with this one.
    if have systemctl; then patiently systemctl start networking.service >/dev/null 2>&1 || true; fi
    patiently ifdown --force "$card" >/dev/null 2>&1 || true
    # Where the gateway is given, no router is to give another one, nor an address.
    routers=/proc/sys/net/ipv6/conf/$card/accept_ra
    if [ -n "$addresses6" ] && [ -n "$gateways6" ] && [ -w "$routers" ]; then
        echo 0 >"$routers"
        ip -6 route flush dev "$card" proto ra
    fi
    ip addr flush dev "$card"
    saved=/var/backups/standin-network
    mkdir -p "$saved" /etc/network/interfaces.d
    own=/etc/network/interfaces.d/standin-$plain
    for file in /etc/network/interfaces /etc/network/interfaces.d/*; do
        if [ ! -f "$file" ] || [ "$file" = "$own" ]; then continue; fi
        without_card "$file" >"$saved/new"
        if cmp -s "$saved/new" "$file"; then continue; fi
        cp -p "$file" "$saved/${file##*/}"
        cat "$saved/new" >"$file"
    done
    rm -f "$saved/new"
    ifupdown_stanzas >"$own"
    grep -Eq '^[[:space:]]*source(-directory)?[[:space:]].*interfaces\.d' /etc/network/interfaces ||
        echo 'source /etc/network/interfaces.d/*' >>/etc/network/interfaces
    ip link set "$card" up
    patiently ifup --force "$card" >&2
    nameservers
    echo by ifupdown
}

# Nothing keeps this guest's network that is known here: it holds until the next boot.
by_hand() {
    if [ "$dhcp4$dhcp6" != nono ]; then fail "this guest has nothing that could ask for an address by DHCP"; fi
    ip addr flush dev "$card" scope global
    ip link set "$card" up
    for address in $addresses4 $addresses6; do ip addr add "$address" dev "$card"; done
    metric=0
    for gateway in $gateways4 $gateways6; do
        metric=$((metric + 100))
        ip route replace default via "$gateway" dev "$card" onlink metric "$metric"
    done
    nameservers
    echo by ip
    echo temporary
}

# Where nothing manages the list of name servers, it is a file.
nameservers() {
    [ -n "$dns" ] || return 0
    if [ -L /etc/resolv.conf ] || active systemd-resolved || have resolvconf; then return 0; fi
    kept=
    [ ! -f /etc/resolv.conf ] || kept=$(grep -v '^[[:space:]]*nameserver' /etc/resolv.conf || true)
    {
        for server in $dns; do echo "nameserver $server"; done
        [ -z "$kept" ] || printf '%s\n' "$kept"
    } >/etc/resolv.conf
}

card=$(find_card)
[ -n "$card" ] || fail "no network card of this guest has the address $mac"
if [ -e "/sys/class/net/$card/master" ]; then
    fail "$card is part of $(basename "$(readlink "/sys/class/net/$card/master")"), which has to be set up in the guest"
fi
have ip || fail "this guest has no ip command"
echo "interface $card"

if active NetworkManager && have nmcli && ! nmcli -g GENERAL.STATE device show "$card" | grep -q unmanaged; then
    by_network_manager
elif have ifquery && ifquery "$card" >/dev/null 2>&1; then
    by_ifupdown
elif active systemd-networkd; then
    by_networkd
elif have ifup && [ -f /etc/network/interfaces ]; then
    by_ifupdown
elif have systemctl && may_enable systemd-networkd; then
    by_networkd
else
    by_hand
fi
