{{- define "mdf.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- /*
Of a chart in a release (root, name): both, or the release alone where it already names the chart.
At most 50 characters, so that what is added (-headless, a pod's ordinal and revision) stays under
Kubernetes' 63; and cut in the release's part, so that the charts of one release keep different names.
*/ -}}
{{- define "mdf.nameInRelease" -}}
{{- if contains .name .root.Release.Name -}}
{{- .root.Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $room := max 1 (sub 49 (len .name)) | int -}}
{{- printf "%s-%s" (.root.Release.Name | trunc $room | trimSuffix "-") .name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "mdf.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- include "mdf.nameInRelease" (dict "root" . "name" (include "mdf.name" .)) -}}
{{- end -}}
{{- end }}

{{- define "mdf.serviceAccountName" -}}
{{- default (include "mdf.fullname" .) .Values.serviceAccount.name -}}
{{- end }}

{{- /* Immutable on a workload once it exists: never add anything that changes with a version. */ -}}
{{- define "mdf.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mdf.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Of a pod: nothing that a new chart version changes, or every upgrade would restart every pod. */ -}}
{{- define "mdf.podLabels" -}}
{{ include "mdf.selectorLabels" . }}
app.kubernetes.io/part-of: market-data-fanout
{{- end }}

{{- define "mdf.labels" -}}
{{ include "mdf.selectorLabels" . }}
app.kubernetes.io/part-of: market-data-fanout
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end }}

{{- /* A digest (the chart's own, then global.imageDigests by chart) wins over a tag; global.imageRegistry
goes in front of the repository. */ -}}
{{- define "mdf.image" -}}
{{- $global := .Values.global | default dict -}}
{{- $registry := .Values.image.registry | default $global.imageRegistry -}}
{{- $name := .Values.image.repository -}}
{{- if $registry }}{{ $name = printf "%s/%s" (trimSuffix "/" $registry) $name }}{{ end -}}
{{- $digest := .Values.image.digest | default (get ($global.imageDigests | default dict) .Chart.Name) -}}
{{- if $digest -}}
{{- printf "%s@%s" $name $digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.Values.image.tag | default $global.imageTag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{- define "mdf.imagePullSecrets" -}}
{{- $global := .Values.global | default dict -}}
{{- with (.Values.imagePullSecrets | default $global.imagePullSecrets) }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}
