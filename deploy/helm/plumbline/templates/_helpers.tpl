{{- define "plumbline.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "plumbline.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains (include "plumbline.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "plumbline.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "plumbline.selectorLabels" -}}
app.kubernetes.io/name: {{ include "plumbline.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "plumbline.labels" -}}
{{ include "plumbline.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: agent
app.kubernetes.io/part-of: plumbline
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "plumbline.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "plumbline.port" -}}
{{- dig "http" "port" 9464 .Values.config }}
{{- end }}

{{/* The config file: what the values say, and the state on the volume unless they say otherwise. */}}
{{- define "plumbline.config" -}}
{{- $state := dict "state" (dict "dir" "/var/lib/plumbline/state") }}
{{- toYaml (merge (deepCopy .Values.config) $state) }}
{{- end }}

{{/* Of the text alone, not of labels that change with every version of the chart. */}}
{{- define "plumbline.configChecksum" -}}
{{- printf "%s%s" (include "plumbline.config" .) (toJson .Values.files) | sha256sum }}
{{- end }}

{{- define "plumbline.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Complete without the pod's own: in a sidecar that belongs to the model. */}}
{{- define "plumbline.securityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* What the agent's container is in both modes. */}}
{{- define "plumbline.container" -}}
image: {{ include "plumbline.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- include "plumbline.securityContext" . | nindent 2 }}
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - {name: metrics, containerPort: {{ include "plumbline.port" . }}, protocol: TCP}
volumeMounts:
  - {name: plumbline-config, mountPath: /etc/plumbline, readOnly: true}
  - {name: plumbline-state, mountPath: /var/lib/plumbline}
  - {name: plumbline-tmp, mountPath: /tmp}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "plumbline.tls" -}}
{{- dig "http" "tls_cert_file" "" .Values.config -}}
{{- end }}

{{/* A kubelet asks in the clear unless it is told; it does not check the certificate. */}}
{{- define "plumbline.probeScheme" -}}
{{- if include "plumbline.tls" . }}, scheme: HTTPS{{ end -}}
{{- end }}

{{/* The volumes of both modes, but the state's. */}}
{{- define "plumbline.volumes" -}}
- name: plumbline-config
  configMap: {name: {{ include "plumbline.fullname" . }}}
- name: plumbline-tmp
  emptyDir: {sizeLimit: 64Mi}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
The agent as a native sidecar: an item for the `initContainers` of your pod.

    initContainers:
      {{- include "plumbline.sidecar" .Subcharts.plumbline | nindent 8 }}
    volumes:
      {{- include "plumbline.sidecar.volumes" .Subcharts.plumbline | nindent 8 }}

No readinessProbe: a sidecar's readiness is the pod's, and a monitor must not take its model out of traffic. No
startupProbe: the model would wait for it. The livenessProbe asks whether the loop turns, never whether Kafka answers.
*/}}
{{- define "plumbline.sidecar" -}}
- name: plumbline
  restartPolicy: Always
  {{- include "plumbline.container" . | nindent 2 }}
  livenessProbe:
    httpGet: {path: /livez, port: metrics{{ include "plumbline.probeScheme" . }}}
    initialDelaySeconds: 60
    periodSeconds: 20
    timeoutSeconds: 5
    failureThreshold: 6
  resources:
    {{- toYaml .Values.sidecar.resources | nindent 4 }}
{{- end }}

{{- define "plumbline.sidecar.volumes" -}}
{{ include "plumbline.volumes" . }}
- name: plumbline-state
  emptyDir: {sizeLimit: {{ .Values.sidecar.stateSizeLimit }}}
{{- end }}
