#!/bin/bash
# delete_self.sh: delete the Compute Engine machine that runs this.
#
# `shutdown` alone would only stop it, and a stopped machine's disk is still paid for.
set -uo pipefail

metadata() {
    curl --silent --fail --header "Metadata-Flavor: Google" \
        "http://metadata.google.internal/computeMetadata/v1/$1"
}

name=$(metadata instance/name)
zone=$(metadata instance/zone) # projects/NUMBER/zones/ZONE
token=$(metadata instance/service-accounts/default/token | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
curl --silent --fail --request DELETE --header "Authorization: Bearer $token" \
    "https://compute.googleapis.com/compute/v1/$zone/instances/$name" > /dev/null ||
    shutdown -h now
