{{- /*
How a pod goes away, in seconds:
  preStopSeconds  only of pods that something sends to: it is being taken out, and still serves
  drainSeconds    from SIGTERM: finish, tell, hand over
  marginSeconds   left before SIGKILL
terminationGracePeriodSeconds is always their sum, so it cannot be too short for its own parts.
*/ -}}
{{- define "mdf.graceSeconds" -}}
{{- add (.Values.drain.preStopSeconds | default 0) .Values.drain.drainSeconds .Values.drain.marginSeconds -}}
{{- end }}

{{- /* At the end of the delay AWS cuts every connection that is left: it must outlast the drain. */ -}}
{{- define "mdf.checkDrain" -}}
{{- $balancer := .Values.loadBalancer -}}
{{- $preStop := int .Values.drain.preStopSeconds -}}
{{- $needed := add $preStop .Values.drain.drainSeconds | int -}}
{{- $delay := int $balancer.deregistrationDelaySeconds -}}
{{- if and (ne $balancer.profile "none") (lt $delay $needed) -}}
{{- fail (printf "loadBalancer.deregistrationDelaySeconds is %d; it must be at least drain.preStopSeconds + drain.drainSeconds = %d" $delay $needed) -}}
{{- end -}}
{{- if and (eq $balancer.profile "nlb") (lt $preStop 120) -}}
{{- fail (printf "drain.preStopSeconds is %d; an NLB keeps sending new connections for up to two minutes, so the nlb profile needs at least 120" $preStop) -}}
{{- end -}}
{{- end }}
