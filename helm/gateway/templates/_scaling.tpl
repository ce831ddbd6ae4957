{{- define "gateway.workloadVersion" -}}
{{- ternary "argoproj.io/v1alpha1" "apps/v1" .Values.canary.enabled -}}
{{- end }}

{{- define "gateway.workloadKind" -}}
{{- ternary "Rollout" "Deployment" .Values.canary.enabled -}}
{{- end }}

{{- define "gateway.minReplicas" -}}
{{- ternary .Values.autoscaling.minReplicas .Values.replicas .Values.autoscaling.enabled -}}
{{- end }}

{{- /* Up at once, down one pod at a time: each that goes sends its clients to the others. */ -}}
{{- define "gateway.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - {type: Percent, value: 100, periodSeconds: 30}
scaleDown:
  stabilizationWindowSeconds: {{ int64 .Values.autoscaling.scaleDownStabilizationSeconds }}
  policies:
    - {type: Pods, value: 1, periodSeconds: 180}
{{- end }}

{{- /* Labels that the Prometheus operator gives to what this release's ServiceMonitor finds. */ -}}
{{- define "gateway.series" -}}
namespace="{{ .Release.Namespace }}",service="{{ include "mdf.fullname" . }}-admin"
{{- end }}

{{- /* Whom the canary's analysis asks, and how. */ -}}
{{- define "gateway.prometheus" -}}
address: {{ .Values.metrics.prometheusAddress | quote }}
{{- with .Values.canary.analysis.authentication }}
authentication:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "gateway.connectionsQuery" -}}
{{- with .Values.autoscaling.keda.query -}}
{{ tpl . $ }}
{{- else -}}
sum(md_ws_connections{ {{- include "gateway.series" . -}} })
{{- end -}}
{{- end }}

{{- define "gateway.checkScaling" -}}
{{- $scaling := .Values.autoscaling -}}
{{- $monitored := .Values.metrics.serviceMonitor.enabled -}}
{{- if $scaling.enabled -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas is %d, and maxReplicas is %d" (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- end -}}
{{- $grace := include "mdf.graceSeconds" . | int -}}
{{- if lt (int $scaling.scaleDownStabilizationSeconds) $grace -}}
{{- fail (printf "autoscaling.scaleDownStabilizationSeconds is %d; it must be at least a whole drain, %d, or scaling down overtakes itself" (int $scaling.scaleDownStabilizationSeconds) $grace) -}}
{{- end -}}
{{- if eq $scaling.kind "keda" -}}
{{- if not $scaling.targetConnections -}}
{{- fail "autoscaling.kind is keda: set autoscaling.targetConnections; for CPU alone kind hpa does the same" -}}
{{- end -}}
{{- if not (or $monitored $scaling.keda.query) -}}
{{- fail "autoscaling.kind is keda: it asks Prometheus for md_ws_connections by the labels that a ServiceMonitor gives; set metrics.serviceMonitor.enabled, or autoscaling.keda.query for series of your own" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if .Values.canary.enabled -}}
{{- if lt (include "gateway.minReplicas" . | int) 2 -}}
{{- fail "canary.enabled needs at least 2 replicas: of one pod no part can be new" -}}
{{- end -}}
{{- if and .Values.canary.analysis.enabled (not (and $monitored (has "rollouts-pod-template-hash" .Values.metrics.serviceMonitor.podTargetLabels))) -}}
{{- fail "canary.analysis tells new pods from old ones by their label: set metrics.serviceMonitor.enabled, with rollouts-pod-template-hash in podTargetLabels, or canary.analysis.enabled=false" -}}
{{- end -}}
{{- end -}}
{{- end }}
