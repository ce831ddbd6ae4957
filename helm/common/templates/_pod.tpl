{{- /*
The pod of a service.
  root: the chart's context
  unit: optional name of the part of the work this workload does (a product set, a shard range)
  env:  optional settings that only this workload has
  http: whether it serves clients on 8080 beside the admin port
  preStopSeconds, graceSeconds: optional; the default is no preStop and terminationGracePeriodSeconds
*/ -}}
{{- define "mdf.pod" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $global := $values.global | default dict -}}
{{- $creds := $values.natsCredsSecret | default $global.natsCredsSecret -}}
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
  terminationGracePeriodSeconds: {{ .graceSeconds | default $values.terminationGracePeriodSeconds }}
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
        {{- with $values.existingSecret }}
        - secretRef:
            name: {{ . }}
        {{- end }}
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
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      {{- include "mdf.probes" $root | nindent 6 }}
      {{- with .preStopSeconds }}
      lifecycle:
        preStop:
          sleep:
            seconds: {{ . }}
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
{{- end }}

{{- /* Liveness asks only whether the event loop turns; a broker that is away must not restart pods. */ -}}
{{- define "mdf.probes" -}}
startupProbe:
  httpGet:
    path: /healthz
    port: admin
  periodSeconds: 2
  failureThreshold: 30
readinessProbe:
  httpGet:
    path: /readyz
    port: admin
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: {{ .Values.readinessFailureThreshold }}
livenessProbe:
  httpGet:
    path: /healthz
    port: admin
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end }}
