{{- /* Health, metrics and admin of every pod. */ -}}
{{- define "mdf.adminService" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "mdf.fullname" . }}-admin
  labels:
    {{- include "mdf.labels" . | nindent 4 }}
    market-data-fanout/service: admin
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "mdf.selectorLabels" . | nindent 4 }}
  ports:
    - name: admin
      port: 9090
      targetPort: admin
{{- end }}

{{- /* Only where there is more than one pod to keep: with one, it would only block node drains. */ -}}
{{- define "mdf.pdb" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "mdf.fullname" . }}
  labels:
    {{- include "mdf.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ .Values.pdb.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "mdf.selectorLabels" . | nindent 6 }}
{{- end }}

{{- define "mdf.serviceMonitor" -}}
{{- if .Values.metrics.serviceMonitor.enabled }}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "mdf.fullname" . }}
  labels:
    {{- include "mdf.labels" . | nindent 4 }}
    {{- with .Values.metrics.serviceMonitor.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels:
      {{- include "mdf.selectorLabels" . | nindent 6 }}
      market-data-fanout/service: admin
  endpoints:
    - port: admin
      path: /metrics
      interval: {{ .Values.metrics.serviceMonitor.interval }}
{{- end }}
{{- end }}

{{- /*
Admin is open to the release's own namespace and to the monitoring namespaces; `http` is what the
chart passes. Egress: DNS, the broker and collector ports, and 443 where the service has business
outside (venue, AWS).
*/ -}}
{{- define "mdf.networkPolicy" -}}
{{- $root := .root -}}
{{- $policy := $root.Values.networkPolicy -}}
{{- if $policy.enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "mdf.fullname" $root }}
  labels:
    {{- include "mdf.labels" $root | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "mdf.selectorLabels" $root | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - from:
        - podSelector: {}
        {{- with $policy.monitoringNamespaces }}
        - namespaceSelector:
            matchExpressions:
              - key: kubernetes.io/metadata.name
                operator: In
                values:
                  {{- toYaml . | nindent 18 }}
        {{- end }}
      ports:
        - port: admin
    {{- with .ingress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  egress:
    - ports:
        - port: 53
          protocol: UDP
        - port: 53
          protocol: TCP
    - ports:
        {{- range $policy.egressPorts }}
        - port: {{ . }}
        {{- end }}
{{- end }}
{{- end }}

{{- /* `helm test`: asks every answering pod behind the admin service for its readiness. */ -}}
{{- define "mdf.test" -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "mdf.fullname" . }}-test
  labels:
    app.kubernetes.io/name: {{ include "mdf.name" . }}-test
    app.kubernetes.io/instance: {{ .Release.Name }}
    app.kubernetes.io/part-of: market-data-fanout
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- include "mdf.imagePullSecrets" . | nindent 2 }}
  securityContext:
    {{- include "mdf.podSecurityContext" . | nindent 4 }}
  containers:
    - name: ready
      image: {{ include "mdf.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command:
        - python
        - -c
        - |
          import urllib.request
          print(urllib.request.urlopen("http://{{ include "mdf.fullname" . }}-admin:9090/readyz", timeout=10).read().decode())
      resources:
        requests: {cpu: 10m, memory: 32Mi}
        limits: {memory: 64Mi}
      securityContext:
        {{- include "mdf.containerSecurityContext" . | nindent 8 }}
{{- end }}

{{- /* The chart's alerts.yaml, a plain list of Prometheus rules, for the Prometheus operator. */ -}}
{{- define "mdf.prometheusRule" -}}
{{- if .Values.metrics.prometheusRule.enabled }}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ include "mdf.fullname" . }}
  labels:
    {{- include "mdf.labels" . | nindent 4 }}
    {{- with .Values.metrics.prometheusRule.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  groups:
    - name: {{ include "mdf.fullname" . }}
      rules:
        {{- .Files.Get "alerts.yaml" | trim | nindent 8 }}
{{- end }}
{{- end }}
