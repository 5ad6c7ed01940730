#!/usr/bin/env bash
# Render the chart into plain manifests: deploy/kubernetes/render.sh [FOLDER]. Needs helm 3; a test compares the result.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
chart=$here/../helm/plumbline
for mode in shared sidecar; do
  {
    echo "# Rendered by deploy/kubernetes/render.sh from deploy/helm/plumbline with ci/$mode-values.yaml; edit those."
    echo "# kubectl create namespace plumbline && kubectl apply -f $mode.yaml (the PodMonitor needs the Prometheus operator)"
    helm template plumbline "$chart" --namespace plumbline --kube-version 1.29.0 --values "$chart/ci/$mode-values.yaml"
  } >"${1:-$here}/$mode.yaml" 2> >(grep -v 'found symbolic link' >&2 || true)
done
