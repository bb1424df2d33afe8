#!/usr/bin/env bash
# What netd does with the WireGuard and the IPv6 of an older kernel: Debian's, in
# an emulator without hardware help, so what is tested is whether it works and not
# how fast. run.sh DIR keeps what it makes below DIR.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1
minutes=12
# Nodes with the kernel's driver, and those beside them with wireguard-go.
fabric='^Test(KernelSpeaksToEmbedded|NodesTalkThroughTheTunnelAlone|NothingLeavesInClear|ForgedFramesDoNotArrive|OnlyTheControlPortIsReached|ChangesByHandArePutBack|RotationLeavesNobodyBehind|MTUFollowsTheUnderlay|PortInUse|TheTableStandsFromStartToCleanup)$'
overlay='^Test(TwoNodes|ForgedFrames|SpoofingFromAContainer|Restart)$'
# Before Linux 6.17 IPv6 is forwarded by all interfaces or by none.
ingress='^Test(IPv6IsRoutedForTasksAlone|WhatRoutersSaidStays|EveryEntryNodeAnswers|StolenNodeIsNotBelieved)$'
suites='fabric overlay ingress'

mkdir -p "$out"
out=$(cd "$out" && pwd)
package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ { print $2; exit }')
[ -n "$package" ] || { echo "no Debian kernel is known to apt: run apt-get update" >&2; exit 1; }
if [ ! -d "$out/$package" ]; then
  rm -rf "$out/get" && mkdir "$out/get"
  (cd "$out/get" && apt-get download -qq "$package" && dpkg -x ./*.deb "$package")
  mv "$out/get/$package" "$out/$package"
  rm -rf "$out/get"
fi
release=$(ls "$out/$package/lib/modules")

root=$out/root
rm -rf "$root"
mkdir -p "$root"/{bin,sbin,dev,proc,sys,tmp,run,tests,lib/modules}
cp "$here/init" "$root/init"
cp /bin/busybox "$root/bin/busybox"
# The kernel asks for modules by this name.
ln -s ../bin/busybox "$root/sbin/modprobe"
# The tests change rules with nft, as an administrator would.
for f in /usr/sbin/nft $(ldd /usr/sbin/nft | grep -o '/[^ ]*'); do
  mkdir -p "$root$(dirname "$f")" && cp -L "$f" "$root$f"
done
cp -r "$out/$package/lib/modules/$release" "$root/lib/modules/"
find "$root/lib/modules" -path '*/drivers/*' -not -path '*/drivers/net/*' -name '*.ko' -delete
/sbin/depmod -b "$root" "$release"
for t in $suites; do
  CGO_ENABLED=0 go test -c -tags kernelvm -o "$root/tests/$t.test" "./mesh/netd/$t"
  echo "-test.v -test.timeout ${minutes}m -test.run ${!t}" >"$root/tests/$t.args"
done
(cd "$root" && find . | cpio -o -H newc --quiet) >"$out/initrd"

log=$out/console
timeout "$((minutes * 60))" qemu-system-x86_64 -machine q35,accel=tcg -cpu max -smp 2 -m 2G -nodefaults -nographic -no-reboot \
  -serial stdio -kernel "$out/$package/boot/vmlinuz-$release" -initrd "$out/initrd" \
  -append "console=ttyS0 panic=-1 quiet" </dev/null >"$log" 2>&1 || { tail -50 "$log" >&2; echo "the emulated machine did not end" >&2; exit 1; }
tr -d '\r' <"$log" | grep -aoE '(kernel [0-9]|^--- ).*' || true
for t in $suites; do
  # A run in which no test was found would have been green as well.
  grep -aq "^$t.test ended with 0" "$log" || { tail -200 "$log" >&2; echo "$t: failed, see $log" >&2; exit 1; }
done
want=$(tr '|' '\n' <<<"$fabric|$overlay|$ingress" | wc -l)
got=$(grep -ac '^--- PASS' "$log")
[ "$got" = "$want" ] || { echo "$got tests passed of $want that are named: see $log" >&2; exit 1; }
