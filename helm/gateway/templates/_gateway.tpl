{{- define "gateway.graceSeconds" -}}
{{- add .Values.drain.preStopSeconds .Values.drain.drainSeconds .Values.drain.marginSeconds -}}
{{- end }}

{{- /* At the end of the delay AWS cuts every connection that is left: it must outlast the drain. */ -}}
{{- define "gateway.checkDrain" -}}
{{- $needed := add .Values.drain.preStopSeconds .Values.drain.drainSeconds -}}
{{- $delay := int .Values.loadBalancer.deregistrationDelaySeconds -}}
{{- if and (ne .Values.loadBalancer.profile "none") (lt $delay (int $needed)) -}}
{{- fail (printf "loadBalancer.deregistrationDelaySeconds is %d; it must be at least drain.preStopSeconds + drain.drainSeconds = %d" $delay $needed) -}}
{{- end -}}
{{- if and (eq .Values.loadBalancer.profile "nlb") (lt (int .Values.drain.preStopSeconds) 120) -}}
{{- fail (printf "drain.preStopSeconds is %d; an NLB keeps sending new connections for up to two minutes, so the nlb profile needs at least 120" (int .Values.drain.preStopSeconds)) -}}
{{- end -}}
{{- end }}

{{- define "gateway.minReplicas" -}}
{{- ternary .Values.autoscaling.minReplicas .Values.replicas .Values.autoscaling.enabled -}}
{{- end }}

{{- /* The gateway itself refuses to be open in production; better to hear it before the rollout. */ -}}
{{- define "gateway.checkKeys" -}}
{{- $settings := include "mdf.settings" . | fromYaml -}}
{{- $names := list -}}
{{- range .Values.extraEnv }}{{ $names = append $names .name }}{{ end -}}
{{- if and (eq (toString $settings.ENVIRONMENT) "production") (not .Values.existingSecret) (not (has "AUTH_API_KEYS" $names)) -}}
{{- fail "ENVIRONMENT is production: set existingSecret to a Secret with the key AUTH_API_KEYS" -}}
{{- end -}}
{{- end }}

{{- /* Of the Service: what clients see with an NLB, else only what stands before it. */ -}}
{{- define "gateway.port" -}}
{{- if ne .Values.loadBalancer.profile "nlb" -}}8080
{{- else -}}{{ ternary 443 80 (ne .Values.loadBalancer.certificateArn "") }}
{{- end -}}
{{- end }}
