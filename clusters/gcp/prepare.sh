#!/bin/bash
# prepare.sh PROJECT ZONE BUCKET > gcp.yaml: make what the launcher file needs, print it filled in.
#
# Makes, where they are missing: the network `diffmix` (SSH from Identity-Aware Proxy only,
# everything between its own machines, nothing else from outside), a way out to the internet for
# machines without a public address (Cloud NAT, which costs a little while machines run), and the
# account `diffmix-node` with access to one bucket. `ray up` makes the head's own account.
set -euo pipefail

project=$1 zone=$2 bucket=$3
region=${zone%-*}
here=$(cd "$(dirname "$0")" && pwd)
node=diffmix-node@$project.iam.gserviceaccount.com

compute() { gcloud --quiet --project "$project" compute "$@" >&2; }

{
    gcloud --quiet --project "$project" services enable \
        compute.googleapis.com iap.googleapis.com iam.googleapis.com \
        cloudresourcemanager.googleapis.com

    compute networks describe diffmix ||
        compute networks create diffmix --subnet-mode=custom
    compute networks subnets describe diffmix --region "$region" ||
        compute networks subnets create diffmix --network diffmix --region "$region" \
            --range 10.10.0.0/20 --enable-private-ip-google-access
    compute firewall-rules describe diffmix-ssh ||
        compute firewall-rules create diffmix-ssh --network diffmix \
            --allow tcp:22 --source-ranges 35.235.240.0/20 # Identity-Aware Proxy's own range
    compute firewall-rules describe diffmix-within ||
        compute firewall-rules create diffmix-within --network diffmix \
            --allow all --source-ranges 10.10.0.0/20
    compute routers describe diffmix --region "$region" ||
        compute routers create diffmix --network diffmix --region "$region"
    compute routers nats describe diffmix --router diffmix --region "$region" ||
        compute routers nats create diffmix --router diffmix --region "$region" \
            --auto-allocate-nat-external-ips --nat-all-subnet-ip-ranges

    gcloud --quiet --project "$project" iam service-accounts describe "$node" ||
        gcloud --quiet --project "$project" iam service-accounts create diffmix-node
    # A machine may delete itself, which needs this right; `ray up` gives the head more.
    gcloud --quiet projects add-iam-policy-binding "$project" --condition=None \
        --member "serviceAccount:$node" --role roles/compute.instanceAdmin.v1
    gcloud --quiet storage buckets add-iam-policy-binding "gs://$bucket" \
        --member "serviceAccount:$node" --role roles/storage.objectAdmin
} > /dev/null

# The newest image with NVIDIA's driver for CUDA 12; Google renames these families every year.
family=$(gcloud --project deeplearning-platform-release compute images list --no-standard-images \
    --filter="family~^common-cu12.*ubuntu-2204.*" --sort-by=~creationTimestamp --limit=1 \
    --format="value(family)")
image=projects/deeplearning-platform-release/global/images/family/$family

sed -e "s|@PROJECT@|$project|g" -e "s|@REGION@|$region|g" -e "s|@ZONE@|$zone|g" \
    -e "s|@IMAGE@|$image|g" "$here/cluster.yaml"
