{{- define "mdf.shardCount" -}}
{{- $settings := include "mdf.settings" . | fromYaml -}}
{{- $settings.SHARD_COUNT | default 8 -}}
{{- end }}

{{- /* Fails unless the ranges together cover 0..SHARD_COUNT-1, each shard once. */ -}}
{{- define "mdf.checkRanges" -}}
{{- $count := include "mdf.shardCount" . | int -}}
{{- $seen := dict -}}
{{- range .Values.shardRanges -}}
  {{- $bounds := splitList "-" (eq . "all" | ternary (printf "0-%d" (sub $count 1)) .) -}}
  {{- range $shard := untilStep (first $bounds | int) (last $bounds | int | add1 | int) 1 -}}
    {{- if hasKey $seen (toString $shard) -}}
      {{- fail (printf "shardRanges: shard %d is in two ranges of %s" $shard (join " " $.Values.shardRanges)) -}}
    {{- end -}}
    {{- if ge $shard $count -}}
      {{- fail (printf "shardRanges: shard %d does not exist, SHARD_COUNT is %d" $shard $count) -}}
    {{- end -}}
    {{- $_ := set $seen (toString $shard) true -}}
  {{- end -}}
{{- end -}}
{{- if ne (len $seen) $count -}}
  {{- fail (printf "shardRanges: %s covers %d of %d shards" (join " " .Values.shardRanges) (len $seen) $count) -}}
{{- end -}}
{{- end }}
