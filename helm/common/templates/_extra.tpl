{{- /* A list of the user's own Kubernetes entries, as a template. Takes root and list. */ -}}
{{- define "mdf.extra" -}}
{{- with .list }}{{ tpl (toYaml .) $.root }}{{ end -}}
{{- end }}

{{- /* Objects of the user's own beside the chart's: maps or text, as templates. */ -}}
{{- define "mdf.extraManifests" -}}
{{- range .Values.extraManifests }}
---
{{ tpl (kindIs "string" . | ternary . (toYaml .)) $ }}
{{- end }}
{{- end }}
