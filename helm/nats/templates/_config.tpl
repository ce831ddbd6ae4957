{{- define "nats.authSecret" -}}
{{- $global := .Values.global | default dict -}}
{{- .Values.auth.existingSecret | default $global.natsAuthSecret | default "" -}}
{{- end }}

{{- define "nats.exporterImage" -}}
{{- $chart := dict "Name" "nats-exporter" "AppVersion" "" -}}
{{- $values := dict "image" .Values.metrics.exporter.image "global" .Values.global -}}
{{- include "mdf.image" (dict "Chart" $chart "Values" $values) -}}
{{- end }}

{{- define "nats.config" -}}
listen: "0.0.0.0:4222"
http: "0.0.0.0:8222"
server_name: $POD_NAME
pid_file: "/var/run/nats/nats.pid"
max_payload: {{ int64 .Values.maxPayload }}
lame_duck_grace_period: "5s"
lame_duck_duration: "{{ .Values.lameDuckSeconds }}s"
jetstream {
  store_dir: "/data/jetstream"
  sync_interval: {{ .Values.jetstream.syncInterval }}
}
{{- if include "nats.authSecret" . }}
authorization {
  user: $QUOTED_USER
  password: $QUOTED_PASSWORD
}
{{- end }}
{{- if gt (int .Values.replicas) 1 }}
cluster {
  name: {{ include "mdf.fullname" . }}
  listen: "0.0.0.0:6222"
  routes: [
    {{- range $ordinal := until (int .Values.replicas) }}
    "nats://{{ include "mdf.fullname" $ }}-{{ $ordinal }}.{{ include "mdf.fullname" $ }}-headless:6222"
    {{- end }}
  ]
}
{{- end }}
{{- end }}
