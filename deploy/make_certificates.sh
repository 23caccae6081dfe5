#!/usr/bin/env bash
# A CA, a server certificate and one certificate per device, for the AMGT link's mutual TLS.
#
#   deploy/make_certificates.sh DIRECTORY SERVER_NAME DEVICE...
#
# SERVER_NAME is the host name or IP address that devices connect to. Keys are readable by their owner alone. Run it
# again with more devices: the CA and what is there already are kept.
set -euo pipefail
umask 077

if [ "$#" -lt 3 ]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
folder=$1 server=$2
shift 2
mkdir -p "$folder"
cd "$folder"

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }

issue() { # NAME EXTENSIONS
  [ -e "$1.crt" ] && return
  new_key "$1"
  openssl req -new -key "$1.key" -subj "/CN=$1" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile <(printf '%b' "$2") \
    -out "$1.crt" 2>/dev/null
  rm "$1.csr"
  echo "made $folder/$1.crt and $1.key"
}

if [ ! -e ca.crt ]; then
  new_key ca
  openssl req -x509 -new -key ca.key -subj "/CN=amgt-fed fleet" -days 3650 \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -out ca.crt
  echo "made $folder/ca.crt and ca.key; keep ca.key off the devices and off the server"
fi
case $server in
*[!0-9.]*) kind=DNS ;;
*) kind=IP ;;
esac
issue server "subjectAltName=$kind:$server,DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"
for device in "$@"; do
  issue "$device" "subjectAltName=DNS:$device\nextendedKeyUsage=clientAuth\n"
done
