{{- /* A list of the user's own Kubernetes entries, as a template. Takes root and list. */ -}}
{{- define "mdf.extra" -}}
{{- with .list }}{{ tpl (toYaml .) $.root }}{{ end -}}
{{- end }}

{{- /*
`env` entries of the user's own (root, list, own: names that the chart itself sets). Kubernetes takes
the last of two entries with one name, and some tools the first: neither is what somebody meant.
*/ -}}
{{- define "mdf.extraEnv" -}}
{{- $entries := include "mdf.extra" . -}}
{{- $seen := dict -}}
{{- range $entry := fromYamlArray ($entries | default "[]") -}}
{{- if has $entry.name $.own -}}
{{- fail (printf "extraEnv: %s is set by the chart itself" $entry.name) -}}
{{- end -}}
{{- if hasKey $seen $entry.name -}}
{{- fail (printf "extraEnv: %s is there twice" $entry.name) -}}
{{- end -}}
{{- $_ := set $seen $entry.name true -}}
{{- end -}}
{{- $entries -}}
{{- end }}

{{- /* Objects of the user's own beside the chart's: maps or text, as templates. */ -}}
{{- define "mdf.extraManifests" -}}
{{- range .Values.extraManifests }}
---
{{ tpl (kindIs "string" . | ternary . (toYaml .)) $ }}
{{- end }}
{{- end }}
