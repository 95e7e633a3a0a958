#!/bin/sh
# Makes .venv-deploy, the laptop's tools for releases and deploys; does nothing when it is up to date.
#   sh deploy/tools.sh PYTHON FOLDER
set -eu
python=$1 folder=$2
list=deploy/requirements/deploy.txt
stamp=$(sha256sum "$list" | cut -d' ' -f1)
grep -qs "$stamp" "$folder/ready" && exit 0
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
  echo "Deploying needs Python 3.10 or newer on this machine, $("$python" --version 2>&1) is here: make ... PYTHON=python3.12"
  exit 1
}
echo "Preparing $folder with $("$python" --version 2>&1)"
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
"$folder/bin/python" -m pip --disable-pip-version-check -q install -r "$list"
echo "$stamp" >"$folder/ready"
