#!/usr/bin/env bash
# Holds the units against systemd's own judgement, where systemd-analyze is installed; nothing is started, and no
# systemd needs to run. POSTERN names the program.
#
#   deploy/systemd/verify.sh
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
TARGET=$(cd "$HERE/../.." && realpath -m "${CARGO_TARGET_DIR:-target}")
POSTERN=$(realpath -m "${POSTERN:-$TARGET/debug/postern}")
# Highest exposure that `systemd-analyze security` may find, in tenths. What is left is what a firewall does for a
# living, and what would take a mount namespace, which postern.service says it must not have.
EXPOSURE_MAX=45

if ! command -v systemd-analyze >/dev/null; then
    echo "SKIPPED: the units were not verified: systemd-analyze is not installed"
    exit 0
fi
[ -x "$POSTERN" ] || { echo "verify.sh: no program at $POSTERN" >&2; exit 1; }

UNITS=$(mktemp -d)
trap 'rm -rf "$UNITS"' EXIT
cp "$HERE"/*.service "$HERE"/*.mount "$UNITS"
# Where it will be installed there is nothing here.
sed -i "s|/usr/local/sbin/postern|$POSTERN|" "$UNITS"/*.service

# Unknown settings, bad values, cycles in the order: all units at once, or a cycle does not show. It says more than it
# fails for: any word about ours is a fault, those about other packages' units are not ours to mend.
said=$(systemd-analyze --man=no verify "$UNITS"/*.service "$UNITS"/*.mount 2>&1) || true
if grep -E 'postern|cycl' <<<"$said"; then
    echo "verify.sh: see above" >&2
    exit 1
fi

# What gives a service mounts of its own opens the devices when it ends: see postern.service.
OPENS='Private(Tmp|Devices|Mounts|Users|IPC|Network)|Protect(System|Home|Proc|KernelTunables|KernelModules|KernelLogs|ControlGroups|Clock|Hostname)'
OPENS+='|ProcSubset|MountFlags|MountAPIVFS|(ReadOnly|ReadWrite|Inaccessible|Exec|NoExec|Bind|BindReadOnly)Paths|TemporaryFileSystem'
OPENS+='|Root(Directory|Image)|LogNamespace|(IPC|Network)NamespacePath|ExtensionImages|MountImages|DynamicUser'
if grep -nE "^($OPENS)=" "$HERE"/*.service; then
    echo "verify.sh: the above gives the service mounts of its own: its devices would be open once it ends" >&2
    exit 1
fi

for unit in postern-guard.service postern.service; do
    if ! found=$(systemd-analyze --no-pager --offline=yes --threshold=$EXPOSURE_MAX security "$UNITS/$unit" 2>&1); then
        echo "$found" >&2
        echo "verify.sh: $unit is more exposed than $EXPOSURE_MAX tenths" >&2
        exit 1
    fi
    sed -n 's/^.*Overall exposure level/exposure/p' <<<"$found"
done
echo "units verified"
