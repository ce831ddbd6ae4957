{{- /* Pod Security "restricted", and a little more: no writable root, no token, no service links. */ -}}
{{- define "mdf.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "mdf.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* With IRSA the role is an annotation; with EKS Pod Identity roleArn stays empty. */ -}}
{{- define "mdf.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "mdf.serviceAccountName" . | quote }}
  labels:
    {{- include "mdf.labels" . | nindent 4 }}
  {{- $annotations := dict }}
  {{- with .Values.serviceAccount.roleArn }}
  {{- $_ := set $annotations "eks.amazonaws.com/role-arn" . }}
  {{- end }}
  {{- with merge $annotations (.Values.serviceAccount.annotations | default dict) }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end }}
