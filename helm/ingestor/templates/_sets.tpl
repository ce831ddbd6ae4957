{{- /* A product has one writer: in two sets it would have two, and two numberings of its book. */ -}}
{{- define "ingestor.checkSets" -}}
{{- $names := dict -}}
{{- $owners := dict -}}
{{- range $set := .Values.productSets -}}
{{- if hasKey $names $set.name -}}
{{- fail (printf "productSets: two are named %s" $set.name) -}}
{{- end -}}
{{- $_ := set $names $set.name true -}}
{{- range $product := $set.products -}}
{{- with get $owners $product -}}
{{- fail (printf "productSets: %s is in %s and in %s" $product . $set.name) -}}
{{- end -}}
{{- $_ := set $owners $product $set.name -}}
{{- end -}}
{{- end -}}
{{- end }}
