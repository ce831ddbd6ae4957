{{- /*
The pod of a service.
  root: the chart's context
  unit: optional name of the part of the work this workload does (a product set, a shard range)
  env:  optional settings that only this workload has
  http: whether it serves clients on 8080 beside the admin port
  hashLabel: optional label that tells old pods from new ones, so that the new ones are spread
    evenly among themselves during a rollout
*/ -}}
{{- define "mdf.pod" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $global := $values.global | default dict -}}
{{- $creds := $values.natsCredsSecret | default $global.natsCredsSecret -}}
{{- $auth := $values.natsAuthSecret | default $global.natsAuthSecret -}}
{{- include "mdf.checkBroker" (dict "root" $root "creds" $creds "auth" $auth) -}}
metadata:
  annotations:
    checksum/config: {{ include "mdf.settings" $root | sha256sum }}
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
  serviceAccountName: {{ include "mdf.serviceAccountName" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- include "mdf.imagePullSecrets" $root | nindent 2 }}
  terminationGracePeriodSeconds: {{ include "mdf.graceSeconds" $root }}
  securityContext:
    {{- include "mdf.podSecurityContext" $root | nindent 4 }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
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
      topologyKey: {{ . }}
      whenUnsatisfiable: {{ $values.topologySpread.whenUnsatisfiable }}
      labelSelector:
        matchLabels:
          {{- include "mdf.selectorLabels" $root | nindent 10 }}
      {{- with $.hashLabel }}
      matchLabelKeys: [{{ . }}]
      {{- end }}
    {{- end }}
  containers:
    - name: {{ include "mdf.name" $root }}
      image: {{ include "mdf.image" $root | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      ports:
        {{- if .http }}
        - name: http
          containerPort: 8080
        {{- end }}
        - name: admin
          containerPort: 9090
      envFrom:
        - configMapRef:
            name: {{ include "mdf.fullname" $root }}
        {{- range compact (list $auth $values.existingSecret) }}
        - secretRef:
            name: {{ . }}
        {{- end }}
        {{- include "mdf.extra" (dict "root" $root "list" $values.extraEnvFrom) | nindent 8 }}
      {{- if or .env $creds $values.extraEnv }}
      env:
        {{- range $name, $value := .env }}
        - name: {{ $name }}
          value: {{ $value | quote }}
        {{- end }}
        {{- if $creds }}
        - name: NATS_CREDS_FILE
          value: /etc/nats-creds/nats.creds
        {{- end }}
        {{- include "mdf.extra" (dict "root" $root "list" $values.extraEnv) | nindent 8 }}
      {{- end }}
      {{- include "mdf.probes" $root | nindent 6 }}
      {{- with $values.drain.preStopSeconds }}
      lifecycle:
        preStop:
          {{- if eq $values.drain.preStopMode "exec" }}
          exec:
            command: [sleep, {{ . | quote }}]
          {{- else }}
          sleep:
            seconds: {{ . }}
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
        {{- include "mdf.extra" (dict "root" $root "list" $values.extraVolumeMounts) | nindent 8 }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: 64Mi
    {{- if $creds }}
    - name: nats-creds
      secret:
        secretName: {{ $creds }}
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
{{- if eq (toString $settings.BROKER_KIND) "memory" -}}
{{- fail "BROKER_KIND is memory: a broker in one process's memory is not shared by pods" -}}
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
  failureThreshold: {{ .Values.readinessFailureThreshold }}
livenessProbe:
  httpGet:
    path: /livez
    port: admin
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end }}
