{{- /*
Address families, of the chart or of the release: none is the cluster's default. `::` takes IPv4 as
well where a pod has it.
*/ -}}
{{- define "mdf.ipFamilies" -}}
{{- $global := .Values.global | default dict -}}
{{- join "," (.Values.ipFamilies | default $global.ipFamilies | default list) -}}
{{- end }}

{{- define "mdf.anyAddress" -}}
{{- ternary "::" "0.0.0.0" (contains "IPv6" (include "mdf.ipFamilies" .)) -}}
{{- end }}

{{- /* Part of a Service's spec. */ -}}
{{- define "mdf.serviceFamilies" -}}
{{- with include "mdf.ipFamilies" . -}}
{{- $families := splitList "," . -}}
ipFamilyPolicy: {{ ternary "SingleStack" "PreferDualStack" (eq (len $families) 1) }}
ipFamilies:
  {{- toYaml $families | nindent 2 }}
{{- end -}}
{{- end }}

{{- /* Health, metrics and admin of every pod. */ -}}
{{- define "mdf.adminService" -}}
apiVersion: v1
kind: Service
metadata:
  name: "{{ include "mdf.fullname" . }}-admin"
  labels:
    {{- include "mdf.labels" . | nindent 4 }}
    market-data-fanout/service: admin
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  {{- with include "mdf.serviceFamilies" . }}{{ . | nindent 2 }}{{ end }}
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
  name: {{ include "mdf.fullname" . | quote }}
  labels:
    {{- include "mdf.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ toJson .Values.pdb.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "mdf.selectorLabels" . | nindent 6 }}
{{- end }}

{{- /* The same for workloads that are divided: one for each of `units`, which have `lines` pods each. */ -}}
{{- define "mdf.unitPdbs" -}}
{{- $root := .root -}}
{{- if and $root.Values.pdb.enabled (gt (int $root.Values.lines) 1) }}
{{- range $unit := .units }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: "{{ include "mdf.fullname" $root }}-{{ $unit }}"
  labels:
    {{- include "mdf.labels" $root | nindent 4 }}
    market-data-fanout/unit: {{ $unit | quote }}
spec:
  maxUnavailable: {{ toJson $root.Values.pdb.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "mdf.selectorLabels" $root | nindent 6 }}
      market-data-fanout/unit: {{ $unit | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What the operator's Prometheus selects by: the chart's own labels, over the release's. */ -}}
{{- define "mdf.monitorLabels" -}}
{{- $global := .root.Values.global | default dict -}}
{{- with merge dict (.labels | default dict) ($global.monitorLabels | default dict) }}{{ toYaml . }}{{ end -}}
{{- end }}

{{- /* Of the Service with the label `admin`; `port` is the name of its port with the metrics. */ -}}
{{- define "mdf.serviceMonitor" -}}
{{- $root := .root -}}
{{- $monitor := $root.Values.metrics.serviceMonitor -}}
{{- if $monitor.enabled }}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "mdf.fullname" $root | quote }}
  labels:
    {{- include "mdf.labels" $root | nindent 4 }}
    {{- include "mdf.monitorLabels" (dict "root" $root "labels" $monitor.labels) | nindent 4 }}
spec:
  selector:
    matchLabels:
      {{- include "mdf.selectorLabels" $root | nindent 6 }}
      market-data-fanout/service: admin
  {{- with $monitor.podTargetLabels }}
  # Of the pod, onto its series: with `-` replaced by `_`.
  podTargetLabels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  endpoints:
    - port: {{ .port | quote }}
      path: /metrics
      interval: {{ $monitor.interval | quote }}
{{- end }}
{{- end }}

{{- /*
Admin is open to the release's own `helm test` and to the namespaces named; `ingress` is what the
chart adds. Egress: DNS, the broker and collector ports, and 443 where the service has business
outside (venue, AWS). With `aws` also the node's EKS Pod Identity agent, which gives the credentials.
*/ -}}
{{- define "mdf.networkPolicy" -}}
{{- $root := .root -}}
{{- $policy := $root.Values.networkPolicy -}}
{{- if $policy.enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "mdf.fullname" $root | quote }}
  labels:
    {{- include "mdf.labels" $root | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "mdf.selectorLabels" $root | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - from:
        - podSelector:
            matchLabels:
              app.kubernetes.io/name: "{{ include "mdf.name" $root }}-test"
              app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
        {{- with concat ($policy.monitoringNamespaces | default list) ($policy.adminNamespaces | default list) | uniq }}
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
        - port: {{ int64 . }}
        {{- end }}
    {{- if .aws }}
    - to:
        - ipBlock: {cidr: 169.254.170.23/32}
        - ipBlock: {cidr: "fd00:ec2::23/128"}
      ports:
        - port: 80
    {{- end }}
    {{- with $policy.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end }}

{{- /* The chart's alerts.yaml, a plain list of Prometheus rules, for the Prometheus operator. */ -}}
{{- define "mdf.prometheusRule" -}}
{{- if .Values.metrics.prometheusRule.enabled }}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ include "mdf.fullname" . | quote }}
  labels:
    {{- include "mdf.labels" . | nindent 4 }}
    {{- include "mdf.monitorLabels" (dict "root" $ "labels" .Values.metrics.prometheusRule.labels) | nindent 4 }}
spec:
  groups:
    - name: {{ include "mdf.fullname" . | quote }}
      rules:
        {{- $pages := printf "runbook_url: %s/" (trimSuffix "/" .Values.metrics.prometheusRule.runbookUrl) }}
        {{- .Files.Get "alerts.yaml" | trim | replace "runbook_url: docs/runbooks/" $pages | nindent 8 }}
{{- end }}
{{- end }}
