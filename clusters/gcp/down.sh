#!/bin/bash
# down.sh PROJECT [everything]: end every machine of the cluster and show what is left.
#
# Works without the head and without SSH: it looks for the label that Ray puts on its machines.
# Exit code 0 means that no machine and no disk of the cluster exists any more. With the word
# `everything`, the network and Cloud NAT go too; `prepare.sh` makes them again.
set -euo pipefail

project=$1
ours="labels.ray-cluster-name=diffmix"
compute() { gcloud --quiet --project "$project" compute "$@"; }

compute instances list --filter="$ours" --format="value(name,zone.basename())" |
    while read -r name zone; do
        compute instances delete "$name" --zone "$zone" --delete-disks=all
    done

if [ "${2:-}" = everything ]; then
    compute routers list --filter="name=diffmix" --format="value(region.basename())" |
        while read -r region; do
            compute routers delete diffmix --region "$region"
        done
    compute firewall-rules delete diffmix-ssh diffmix-within
    compute networks subnets list --filter="name=diffmix" --format="value(region.basename())" |
        while read -r region; do
            compute networks subnets delete diffmix --region "$region"
        done
    compute networks delete diffmix
fi

left=$(
    compute instances list --filter="$ours" --format="value(name)"
    compute disks list --filter="name~^ray-diffmix-" --format="value(name)"
)
if [ -n "$left" ]; then
    echo "Left: $left"
    exit 1
fi
echo "Nothing is left: no machine, no disk."
