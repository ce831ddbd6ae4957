{{- define "gateway.check" -}}
{{- include "mdf.checkDrain" . -}}
{{- include "gateway.checkKeys" . -}}
{{- include "gateway.checkTls" . -}}
{{- include "gateway.checkIdle" . -}}
{{- include "gateway.checkScaling" . -}}
{{- end }}

{{- /* The gateway itself refuses to be open in production; better to hear it before the rollout. */ -}}
{{- define "gateway.checkKeys" -}}
{{- $settings := include "mdf.settings" . | fromYaml -}}
{{- $names := list -}}
{{- range .Values.extraEnv }}{{ $names = append $names .name }}{{ end -}}
{{- $given := or .Values.existingSecret .Values.extraEnvFrom (has "AUTH_API_KEYS" $names) -}}
{{- if and (eq (toString $settings.ENVIRONMENT) "production") (not $given) -}}
{{- fail "ENVIRONMENT is production: set existingSecret to a Secret with the key AUTH_API_KEYS" -}}
{{- end -}}
{{- end }}

{{- /* A key that travels in the clear is everybody's. */ -}}
{{- define "gateway.checkTls" -}}
{{- $settings := include "mdf.settings" . | fromYaml -}}
{{- $balancer := .Values.loadBalancer -}}
{{- if and (eq (toString $settings.ENVIRONMENT) "production") (ne $balancer.profile "none") (not $balancer.certificateArn) (not (include "mdf.plaintextAccepted" .)) -}}
{{- fail (printf "ENVIRONMENT is production: set loadBalancer.certificateArn, so that the %s speaks TLS, or global.plaintextAccepted if something before it does" $balancer.profile) -}}
{{- end -}}
{{- end }}

{{- /*
A quiet client gets nothing but heartbeats; a load balancer must not take that for an idle connection.
An NLB's own limit is 350 s.
*/ -}}
{{- define "gateway.checkIdle" -}}
{{- $settings := include "mdf.settings" . | fromYaml -}}
{{- $beat := div (int ($settings.WS_HEARTBEAT_MS | default 5000)) 1000 | int -}}
{{- $idle := int .Values.loadBalancer.idleTimeoutSeconds -}}
{{- if and (eq .Values.loadBalancer.profile "alb") (le $idle $beat) -}}
{{- fail (printf "loadBalancer.idleTimeoutSeconds is %d, and WS_HEARTBEAT_MS is %d s: quiet clients would be cut" $idle $beat) -}}
{{- end -}}
{{- if and (eq .Values.loadBalancer.profile "nlb") (ge $beat 350) -}}
{{- fail (printf "WS_HEARTBEAT_MS is %d s: an NLB cuts what is quiet for 350 s" $beat) -}}
{{- end -}}
{{- end }}

{{- /* Of the Service: what clients see with an NLB, else only what stands before it. */ -}}
{{- define "gateway.port" -}}
{{- if ne .Values.loadBalancer.profile "nlb" -}}8080
{{- else -}}{{ ternary 443 80 (ne .Values.loadBalancer.certificateArn "") }}
{{- end -}}
{{- end }}
