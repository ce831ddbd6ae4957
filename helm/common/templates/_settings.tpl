{{- /*
The environment of a service, as YAML: what every pod of these charts needs, then global.settings,
then the chart's own settings. Values are templates, numbers keep their digits (5000000, not 5e+06).
*/ -}}
{{- define "mdf.settings" -}}
{{- $root := . -}}
{{- $global := .Values.global | default dict -}}
{{- $base := dict
      "ADMIN_PORT" "9090"
      "HTTP_PORT" "8080"
      "LOG_FORMAT" "json"
      "NATS_URLS" "nats://nats:4222" -}}
{{- $merged := mergeOverwrite $base
      (deepCopy ($global.settings | default dict)) (deepCopy (.Values.settings | default dict)) -}}
{{- range $name, $value := $merged }}
{{- if not (kindIs "invalid" $value) }}
{{- if kindIs "string" $value }}
{{ $name }}: {{ tpl $value $root | quote }}
{{- else }}
{{ $name }}: {{ toJson $value | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "mdf.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "mdf.fullname" . }}
  labels:
    {{- include "mdf.labels" . | nindent 4 }}
data:
  {{- include "mdf.settings" . | trim | nindent 2 }}
{{- end }}
