#!/bin/bash
# The first process of a pretended machine: its disk is this machine's, with what changes kept in memory; it serves ssh.
#   NAME=... ADDRESS=... DISK=... CHECKOUT=... KEYS=... GPU=... IMAGE=... boot.sh PYTHON...
# DISK: an empty folder. CHECKOUT is hidden: what a machine has of the project, it was sent. KEYS: who may log in as
# `ubuntu`. IMAGE: the environment of its container. PYTHON: folders of the interpreter and its packages.
set -eu
lab=$(cd "$(dirname "$0")" && pwd)
root=$DISK/root

layer() { # layer BELOW AT: what is below at another place, with changes of its own
  local changes
  changes=$(mktemp -d "$DISK/XXXX")
  mkdir -p -m 755 "$changes/upper" "$changes/work" "$2"
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$changes/upper,workdir=$changes/work" "$2"
}

mount --make-rprivate /
mount -t tmpfs -o size=4g,mode=755 tmpfs "$DISK"
layer / "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
for folder in /dev/shm /tmp /home /run "$CHECKOUT"; do
  mkdir -p "$root$folder"
  mount -t tmpfs -o size=2g,mode=755 tmpfs "$root$folder"
done
chmod 1777 "$root/dev/shm" "$root/tmp"
for folder in "$@"; do
  layer "$folder" "$root$folder"
  while [ "$folder" != / ]; do # all users may run it
    chmod a+x "$root$folder"
    folder=$(dirname "$folder")
  done
done

hostname "$NAME"
echo "$NAME" > "$root/etc/hostname"
printf '127.0.0.1 localhost\n%s %s\n' "$ADDRESS" "$NAME" > "$root/etc/hosts"
: > "$root/etc/resolv.conf"
rm -rf "$root$(getent passwd 0 | cut -d: -f6)"/{.ssh,.aws,.ray} # of whoever runs the lab
# `*`, for sshd refuses accounts that are locked. The container's user has the same number, as in Ray's images; the
# first is the one that ssh takes `~` from, there.
sed -i '/^[^:]*:[^:]*:1000:/d' "$root/etc/passwd"
for user in ray ubuntu; do
  chroot "$root" useradd --non-unique --uid 1000 --create-home --shell /bin/bash --password '*' "$user"
done
known=$root$(chroot "$root" getent passwd ubuntu | cut -d: -f6)/.ssh
mkdir -m 700 "$known"
cp "$KEYS" "$known/authorized_keys"
chown -R 1000 "$known"

# The container's image: the packages, but not the project, which the set-up commands install.
for packages in "$root$1"/lib/python*/site-packages; do
  rm -rf "$packages"/*seismogen*
  mkdir -p "$packages/__pycache__"
  cp "$lab/pretended_gpu.py" "$packages/"
  echo 'import pretended_gpu' > "$packages/pretended_gpu.pth"
  chown 1000 "$packages" "$packages/__pycache__" "$root$1/bin"
done
printf '%s\n' $IMAGE > "$root/etc/image"
echo "export PATH=$1/bin:$PATH" >> "$root/home/ray/.bashrc" # as login shells forget that of the image
[ -z "$GPU" ] || ln -s /bin/true "$root/usr/local/bin/nvidia-smi"
cp "$lab/docker" "$root/usr/local/bin/docker"
install -d -o 1000 "$root/run/docker"

mkdir "$root/run/sshd"
ls "$root"/etc/ssh/ssh_host_*_key > /dev/null 2>&1 || chroot "$root" ssh-keygen -A > /dev/null
# bash, as the first process has to take leave of all that lose their parents. It binds folders for `docker run`, too.
mkfifo -m 666 "$root/run/docker/mounts"
exec chroot "$root" /bin/bash -c '/usr/sbin/sshd -D -e -o UsePAM=no -o UseDNS=no -o MaxStartups=100 &
while read -r from to; do mount --bind "$from" "$to"; done <> /run/docker/mounts'
