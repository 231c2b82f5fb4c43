#!/bin/sh
# Writes deploy/weir.yaml from the chart: the same for those without helm.
set -eu
cd "$(dirname "$0")/.."
{
  cat <<'HEAD'
# weir without helm: gateway and autoscaler for the functions of a namespace,
# here called weir. Made from chart/ by `make deploy`; change it there.
#
#   kubectl create namespace weir
#   kubectl -n weir create secret generic weir-auth --from-literal=password="$(head -c 24 /dev/urandom | base64)"
#   kubectl -n weir apply -f deploy/weir.yaml
HEAD
  "${HELM:-helm}" template weir chart --namespace weir --kube-version 1.35 --set auth.existingSecret=weir-auth |
    grep -v -e 'app.kubernetes.io/managed-by' -e 'helm.sh/chart' -e '^# Source'
} > "${1:-deploy/weir.yaml}"
