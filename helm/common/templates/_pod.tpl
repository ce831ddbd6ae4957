{{- /*
The pod of a service.
  root: the chart's context
  unit: optional name of the part of the work this workload does (a product set, a shard range)
  env:  optional settings that only this workload has
  http: whether it serves clients on 8080 beside the admin port
  hashLabel: optional label that tells old pods from new ones, so that the new ones are spread
    evenly among themselves during a rollout
  spreadUnit: whether the pods of each unit are spread among themselves, and not all of the service
*/ -}}
{{- define "mdf.pod" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $global := $values.global | default dict -}}
{{- $creds := $values.natsCredsSecret | default $global.natsCredsSecret -}}
{{- $auth := $values.natsAuthSecret | default $global.natsAuthSecret -}}
{{- $tls := $values.natsTlsSecret | default $global.natsTlsSecret -}}
{{- $env := dict -}}
{{- range $name, $value := .env }}{{ $_ := set $env $name $value }}{{ end -}}
{{- if $creds }}{{ $_ := set $env "NATS_CREDS_FILE" "/etc/nats-creds/nats.creds" }}{{ end -}}
{{- if $tls -}}
{{- $_ := set $env "NATS_TLS_CA_FILE" "/etc/nats-tls/ca.crt" -}}
{{- if $values.natsClientCertificate | default $global.natsClientCertificate -}}
{{- $_ := set $env "NATS_TLS_CERT_FILE" "/etc/nats-tls/tls.crt" -}}
{{- $_ := set $env "NATS_TLS_KEY_FILE" "/etc/nats-tls/tls.key" -}}
{{- end -}}
{{- end -}}
{{- include "mdf.checkBroker" (dict "root" $root "creds" $creds "auth" $auth "env" $env) -}}
{{- $own := concat (keys $env) (list "ADMIN_PORT" "HTTP_HOST" "HTTP_PORT") -}}
{{- $extraEnv := include "mdf.extraEnv" (dict "root" $root "list" $values.extraEnv "own" $own) -}}
metadata:
  annotations:
    checksum/config: {{ include "mdf.settings" $root | sha256sum | quote }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "mdf.podLabels" $root | nindent 4 }}
    {{- with .unit }}
    market-data-fanout/unit: {{ . | quote }}
    {{- end }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "mdf.serviceAccountName" $root | quote }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- include "mdf.imagePullSecrets" $root | nindent 2 }}
  terminationGracePeriodSeconds: {{ include "mdf.graceSeconds" $root }}
  securityContext:
    {{- include "mdf.podSecurityContext" $root | nindent 4 }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . | quote }}
      whenUnsatisfiable: {{ $values.topologySpread.whenUnsatisfiable | quote }}
      labelSelector:
        matchLabels:
          {{- include "mdf.selectorLabels" $root | nindent 10 }}
          {{- if $.spreadUnit }}
          market-data-fanout/unit: {{ $.unit | quote }}
          {{- end }}
      {{- with $.hashLabel }}
      matchLabelKeys: [{{ . }}]
      {{- end }}
    {{- end }}
  containers:
    - name: {{ include "mdf.name" $root | quote }}
      image: {{ include "mdf.image" $root | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy | quote }}
      ports:
        {{- if .http }}
        - name: http
          containerPort: 8080
        {{- end }}
        - name: admin
          containerPort: 9090
      envFrom:
        - configMapRef:
            name: {{ include "mdf.fullname" $root | quote }}
        {{- range compact (list $auth $values.existingSecret) }}
        - secretRef:
            name: {{ . | quote }}
        {{- end }}
        {{- include "mdf.extra" (dict "root" $root "list" $values.extraEnvFrom) | nindent 8 }}
      {{- if or $env $extraEnv }}
      env:
        {{- range $name, $value := $env }}
        - name: {{ $name | quote }}
          value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
        {{- end }}
        {{- with $extraEnv }}{{ . | nindent 8 }}{{ end }}
      {{- end }}
      {{- include "mdf.probes" $root | nindent 6 }}
      {{- with $values.drain.preStopSeconds }}
      lifecycle:
        preStop:
          {{- if eq $values.drain.preStopMode "exec" }}
          exec:
            command: [sleep, {{ int64 . | quote }}]
          {{- else }}
          sleep:
            seconds: {{ int64 . }}
          {{- end }}
      {{- end }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      securityContext:
        {{- include "mdf.containerSecurityContext" $root | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        {{- if $creds }}
        - name: nats-creds
          mountPath: /etc/nats-creds
          readOnly: true
        {{- end }}
        {{- if $tls }}
        - name: nats-tls
          mountPath: /etc/nats-tls
          readOnly: true
        {{- end }}
        {{- include "mdf.extra" (dict "root" $root "list" $values.extraVolumeMounts) | nindent 8 }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: 64Mi
    {{- if $creds }}
    - name: nats-creds
      secret:
        secretName: {{ $creds | quote }}
        defaultMode: 0440
    {{- end }}
    {{- if $tls }}
    - name: nats-tls
      secret:
        secretName: {{ $tls | quote }}
        defaultMode: 0440
    {{- end }}
    {{- include "mdf.extra" (dict "root" $root "list" $values.extraVolumes) | nindent 4 }}
{{- end }}

{{- /* Refuses what no pod could start with. */ -}}
{{- define "mdf.checkBroker" -}}
{{- if and .creds .auth -}}
{{- fail (printf "natsCredsSecret is %s and natsAuthSecret is %s: NATS takes one of them" .creds .auth) -}}
{{- end -}}
{{- $settings := include "mdf.settings" .root | fromYaml -}}
{{- $kind := toString ($settings.BROKER_KIND | default "nats") -}}
{{- if eq $kind "memory" -}}
{{- fail "BROKER_KIND is memory: a broker in one process's memory is not shared by pods" -}}
{{- end -}}
{{- $production := eq (toString $settings.ENVIRONMENT) "production" -}}
{{- if and $production (eq $kind "nats") -}}
{{- if not (or .creds .auth (hasKey .env "NATS_TLS_CERT_FILE")) -}}
{{- fail "ENVIRONMENT is production: set natsCredsSecret or natsAuthSecret (or natsClientCertificate); whoever may write to NATS makes prices" -}}
{{- end -}}
{{- range $url := splitList "," (toString $settings.NATS_URLS) -}}
{{- if not (or (hasPrefix "tls://" (trim $url)) (hasPrefix "wss://" (trim $url)) (include "mdf.plaintextAccepted" $.root)) -}}
{{- fail (printf "ENVIRONMENT is production, and NATS_URLS has %s without TLS: use tls://, or set global.plaintextAccepted if something else encrypts (a mesh)" (trim $url)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /*
Started: every dependency was there once (see /startupz). A start that takes longer than
startupSeconds is begun again; after that only a loop that no longer turns restarts a pod, never a
broker that is away.
*/ -}}
{{- define "mdf.probes" -}}
startupProbe:
  httpGet:
    path: /startupz
    port: admin
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: {{ div (add .Values.startupSeconds 4) 5 }}
readinessProbe:
  httpGet:
    path: /readyz
    port: admin
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: {{ int64 .Values.readinessFailureThreshold }}
livenessProbe:
  httpGet:
    path: /livez
    port: admin
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end }}

{{- /* Not empty where somebody says that production may do without TLS of its own. */ -}}
{{- define "mdf.plaintextAccepted" -}}
{{- $global := .Values.global | default dict -}}
{{- if or $global.plaintextAccepted .Values.plaintextAccepted }}yes{{ end -}}
{{- end }}
