{{- /*
The environment of a service, as YAML: what every pod of these charts needs, then those of
global.settings that the service reads (settings.txt), then the chart's own settings. So a change
restarts only the services that it is for. Values are templates; numbers keep their digits (5000000,
not 5e+06).
*/ -}}
{{- define "mdf.settings" -}}
{{- $root := . -}}
{{- $global := .Values.global | default dict -}}
{{- $base := dict
      "ADMIN_PORT" "9090"
      "HTTP_HOST" (include "mdf.anyAddress" .)
      "HTTP_PORT" "8080"
      "LOG_FORMAT" "json"
      "NATS_URLS" "nats://nats:4222" -}}
{{- $shared := dict -}}
{{- range $name := .Files.Lines "settings.txt" -}}
{{- if hasKey ($global.settings | default dict) $name -}}
{{- $_ := set $shared $name (index $global.settings $name) -}}
{{- end -}}
{{- end -}}
{{- $merged := mergeOverwrite $base (deepCopy $shared) (deepCopy (.Values.settings | default dict)) -}}
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
  name: {{ include "mdf.fullname" . | quote }}
  labels:
    {{- include "mdf.labels" . | nindent 4 }}
data:
  {{- include "mdf.settings" . | trim | nindent 2 }}
{{- end }}
