#!/usr/bin/env bash
# A throw-away S3 server on 127.0.0.1: one Ceph monitor, one memory-backed OSD and one gateway, as this user.
#
#   ceph.sh start FOLDER S3_PORT MON_PORT ACCESS_KEY SECRET_KEY   returns when the gateway answers
#   ceph.sh stop  FOLDER                                           ends the three daemons by their pid files
#
# Needs the Debian packages radosgw, ceph-mon, ceph-osd and ceph-common.
set -euo pipefail

write_conf() { # FOLDER S3_PORT MON_PORT FSID
  cat > "$1/ceph.conf" <<CONF
[global]
fsid = $4
mon host = v1:127.0.0.1:$3
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
ms bind ipv6 = false
ms bind msgr2 = false
run dir = $1/run
admin socket = $1/run/\$name.asok
pid file = $1/run/\$name.pid
log file = $1/log/\$name.log
mon data = $1/mon
osd data = $1/osd
osd objectstore = memstore
memstore device bytes = 4G
rgw frontends = beast endpoint=127.0.0.1:$2 tcp_nodelay=1
rgw thread pool size = 16
rgw rados pool pg num min = 1
rgw run sync thread = false
CONF
}

until_true() { # WHAT TRIES COMMAND...
  local what=$1 tries=$2
  shift 2
  for _ in $(seq "$tries"); do
    "$@" && return
    sleep 0.1
  done
  echo "ceph.sh: $what did not come up" >&2
  exit 1
}

osd_is_up() { ceph -c "$CEPH_CONF" osd stat 2> /dev/null | grep -q "1 up"; }
create_osd() { ceph -c "$CEPH_CONF" osd create "$OSD" 0 > /dev/null 2>&1; } # with a name: twice is once
start_osd() { ceph-osd -c "$CEPH_CONF" -i 0 > /dev/null 2>&1; }
answers() { (: > "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

start() { # FOLDER S3_PORT MON_PORT ACCESS_KEY SECRET_KEY
  local folder=$1 fsid
  fsid=$(cat /proc/sys/kernel/random/uuid)
  mkdir -p "$folder"/{mon,osd,run,log}
  write_conf "$folder" "$2" "$3" "$fsid"
  export CEPH_CONF=$folder/ceph.conf
  OSD=$(cat /proc/sys/kernel/random/uuid)
  monmaptool --create --addv a "[v1:127.0.0.1:$3]" --fsid "$fsid" "$folder/monmap" > /dev/null
  ceph-mon -c "$CEPH_CONF" --mkfs -i a --monmap "$folder/monmap"
  ceph-mon -c "$CEPH_CONF" -i a
  until_true "the monitor" 300 create_osd
  ceph-osd -c "$CEPH_CONF" -i 0 --mkfs --mkkey --no-mon-config --osd-uuid "$OSD" > /dev/null 2>&1 || true # complains, works
  until_true "the OSD" 300 start_osd # a young monitor refuses it now and then
  until_true "the OSD" 600 osd_is_up
  radosgw -c "$CEPH_CONF" -n client.rgw.a
  radosgw-admin -c "$CEPH_CONF" user create --uid=t --display-name=t --access-key="$4" --secret-key="$5" > /dev/null
  until_true "the gateway" 1200 answers "$2"
}

stop() { # FOLDER
  local file
  for file in "$1"/run/*.pid; do
    [[ -e $file ]] && kill -9 "$(cat "$file")" 2> /dev/null || true
  done
}

"$@"
