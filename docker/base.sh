#!/bin/sh
# Writes a minimal Debian root file system as a tar archive to standard output: what
# the images of systems under test are built on where no image registry answers.
#
#   docker/base.sh | docker import - NAME
#
# It needs root, and a machine whose own packages come from Debian's archive: suite,
# mirrors, proxies and keys are those of the machine's own apt. debootstrap is
# installed where it is missing. Messages go to standard error.
set -eu
exec 3>&1 1>&2

fail() {
	echo "docker/base.sh: $*"
	exit 1
}
[ "$(id -u)" = 0 ] || fail "it makes device nodes and changes its root, so it needs root"
command -v apt-get >/dev/null || fail "this machine has no apt, so there is no archive to take packages from"
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -n "$suite" ] || fail "/etc/os-release names no VERSION_CODENAME, so it is unknown which suite to take"

sources() { apt-get indextargets --format 'deb $(SITE) $(RELEASE) $(COMPONENT)' "Created-By: Packages" "Origin: Debian"; }
if [ -z "$(sources)" ]; then
	apt-get update -q
fi
mirror=$(sources | awk -v suite="$suite" '$3 == suite { print $2; exit }')
[ -n "$mirror" ] || fail "no source of this machine's apt is Debian's suite $suite; see /etc/apt/sources.list"
if ! command -v debootstrap >/dev/null; then
	DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends debootstrap
fi

# debootstrap asks wget, which knows proxies by the environment alone.
eval "$(apt-config shell proxy Acquire::http::Proxy)"
if [ -n "${proxy:-}" ] && [ "$proxy" != DIRECT ]; then
	export http_proxy="$proxy"
else
	proxy=
fi

root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT
trap 'exit 1' INT TERM
debootstrap --variant=minbase "$suite" "$root" "$mirror"
sources | sort -u >"$root/etc/apt/sources.list"
# No service starts while packages are installed, and no packages are kept.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
echo 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };' >"$root/etc/apt/apt.conf.d/keep-no-packages"
if [ -n "$proxy" ]; then
	echo "Acquire::http::Proxy \"$proxy\";" >"$root/etc/apt/apt.conf.d/proxy"
fi
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/log/*.log
tar --numeric-owner -C "$root" -c . >&3
