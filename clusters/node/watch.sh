#!/bin/bash
# watch.sh ROLE MINUTES COMMAND...: start stop_when_idle.py as a system service of this machine.
#
# ROLE is head or worker. COMMAND ends the machine. The service belongs to systemd, so it outlives
# the SSH session of the launcher and is started again if it fails.
set -euo pipefail

role=$1 minutes=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
unit=/etc/systemd/system/diffmix-stop-when-idle.service

sudo tee "$unit" > /dev/null << UNIT
[Unit]
Description=End this machine when Ray on it is idle
[Service]
Environment=RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token
ExecStart=$HOME/venv/bin/python $here/stop_when_idle.py --role $role --minutes $minutes -- $*
Restart=on-failure
RestartSec=60
[Install]
WantedBy=multi-user.target
UNIT
sudo systemctl daemon-reload
sudo systemctl enable --quiet diffmix-stop-when-idle
sudo systemctl restart diffmix-stop-when-idle
