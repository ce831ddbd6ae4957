{{- define "nats.authSecret" -}}
{{- $global := .Values.global | default dict -}}
{{- .Values.auth.existingSecret | default $global.natsAuthSecret | default "" -}}
{{- end }}

{{- define "nats.exporterImage" -}}
{{- $chart := dict "Name" "nats-exporter" "AppVersion" "" -}}
{{- $values := dict "image" .Values.metrics.exporter.image "global" .Values.global -}}
{{- include "mdf.image" (dict "Chart" $chart "Values" $values) -}}
{{- end }}

{{- /* Refuses a user that nobody has permissions for, and one user beside many. */ -}}
{{- define "nats.checkUsers" -}}
{{- $known := list "ingestor" "normalizer" "snapshotter" "gateway" "operator" -}}
{{- range $user, $secret := .Values.auth.users -}}
{{- if not (has $user $known) -}}
{{- fail (printf "auth.users: %s is none of %s" $user (join ", " $known)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.auth.users .Values.auth.existingSecret -}}
{{- fail "auth.users and auth.existingSecret: one user for each service, or one for all" -}}
{{- end -}}
{{- end }}

{{- /* As it stands before a port. */ -}}
{{- define "nats.anyAddress" -}}
{{- ternary "[::]" "0.0.0.0" (eq "::" (include "mdf.anyAddress" .)) -}}
{{- end }}

{{- define "nats.config" -}}
listen: "{{ include "nats.anyAddress" . }}:4222"
http: "{{ include "nats.anyAddress" . }}:8222"
server_name: $POD_NAME
pid_file: "/var/run/nats/nats.pid"
max_payload: {{ int64 .Values.maxPayload }}
lame_duck_grace_period: "5s"
lame_duck_duration: "{{ int64 .Values.lameDuckSeconds }}s"
jetstream {
  store_dir: "/data/jetstream"
  sync_interval: {{ .Values.jetstream.syncInterval }}
  max_file_store: {{ .Values.jetstream.maxFileStore }}
}
{{- if .Values.tls.existingSecret }}
tls {
  cert_file: "/etc/nats-tls/tls.crt"
  key_file: "/etc/nats-tls/tls.key"
  ca_file: "/etc/nats-tls/ca.crt"
  verify: {{ .Values.tls.verify }}
}
{{- end }}
{{- if .Values.auth.users }}
authorization {
  users: [
    {{- range $user := keys .Values.auth.users | sortAlpha }}
    {
      user: $QUOTED_USER_{{ upper $user }}
      password: $QUOTED_PASSWORD_{{ upper $user }}
      permissions: {
        {{- $.Files.Get (printf "permissions/%s.conf" $user) | trim | nindent 8 }}
      }
    }
    {{- end }}
  ]
}
{{- else if include "nats.authSecret" . }}
authorization {
  user: $QUOTED_USER
  password: $QUOTED_PASSWORD
}
{{- end }}
{{- if gt (int .Values.replicas) 1 }}
cluster {
  {{- if .Values.tls.existingSecret }}
  # The servers know each other by certificates of the same CA.
  tls {
    cert_file: "/etc/nats-tls/tls.crt"
    key_file: "/etc/nats-tls/tls.key"
    ca_file: "/etc/nats-tls/ca.crt"
    verify: true
  }
  {{- end }}
  name: {{ include "mdf.fullname" . | quote }}
  listen: "{{ include "nats.anyAddress" . }}:6222"
  routes: [
    {{- range $ordinal := until (int .Values.replicas) }}
    "nats://{{ include "mdf.fullname" $ }}-{{ $ordinal }}.{{ include "mdf.fullname" $ }}-headless:6222"
    {{- end }}
  ]
}
{{- end }}
{{- end }}
