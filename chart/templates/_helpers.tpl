{{- define "weir.name" -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" .Release.Name) -}}
{{- fail (printf "release name %q: expected a letter, then letters, digits and '-', for a Service is named by it" .Release.Name) -}}
{{- end -}}
{{- if contains "weir" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-weir" (.Release.Name | trunc 45 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "weir.selector" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "weir.labels" -}}
{{ include "weir.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "weir.secret" -}}
{{- .Values.auth.existingSecret | default (printf "%s-auth" (include "weir.name" .)) -}}
{{- end -}}

{{/* true where functions of other namespaces than the release's are served */}}
{{- define "weir.wide" -}}
{{- $wide := false -}}
{{- range .Values.namespaces -}}
{{- if ne . $.Release.Namespace -}}{{- $wide = true -}}{{- end -}}
{{- end -}}
{{- if $wide -}}true{{- end -}}
{{- end -}}

{{/* of the rules for functions; a ClusterRole's name is the cluster's to share */}}
{{- define "weir.functions" -}}
{{- if include "weir.wide" . -}}
{{- printf "%s-%s-functions" .Release.Namespace (include "weir.name" .) -}}
{{- else -}}
{{- printf "%s-functions" (include "weir.name" .) -}}
{{- end -}}
{{- end -}}

{{/* how many weirs */}}
{{- define "weir.replicas" -}}
{{- if .Values.store.embedded -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- fail (printf "replicas=%d with store.embedded: two weirs cannot share a volume; set replicas to 1, or store.embedded to false and store.nats.url to a NATS server" (int .Values.replicas)) -}}
{{- end -}}
{{- if .Values.store.nats.url -}}
{{- fail "store.embedded and store.nats.url: calls are kept in one place; set one of them" -}}
{{- end -}}
1
{{- else -}}
{{- int .Values.replicas | default 2 -}}
{{- end -}}
{{- end -}}
