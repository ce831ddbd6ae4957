{{- /*
What every test pod is apart from its container: root, and the name of the test. `helm test --logs`
reads the pods afterwards and of one container, so each has one, and stays until the next test.
*/ -}}
{{- define "mdf.testPod" -}}
{{- $root := .root -}}
apiVersion: v1
kind: Pod
metadata:
  name: "{{ include "mdf.fullname" $root }}-test-{{ .name }}"
  labels:
    app.kubernetes.io/name: "{{ include "mdf.name" $root }}-test"
    app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
    app.kubernetes.io/part-of: market-data-fanout
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- include "mdf.imagePullSecrets" $root | nindent 2 }}
  securityContext:
    {{- include "mdf.podSecurityContext" $root | nindent 4 }}
{{- end }}

{{- define "mdf.testContainer" -}}
image: {{ include "mdf.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
resources:
  requests: {cpu: 10m, memory: 32Mi}
  limits: {memory: 64Mi}
securityContext:
  {{- include "mdf.containerSecurityContext" . | nindent 2 }}
{{- end }}

{{- /* `helm test` of a service: every pod behind its admin service says that it is ready. */ -}}
{{- define "mdf.test" -}}
{{ include "mdf.testPod" (dict "root" $ "name" "ready") }}
  containers:
    - name: ready
      {{- include "mdf.testContainer" . | nindent 6 }}
      env:
        - name: ADMIN
          value: "{{ include "mdf.fullname" . }}-admin:9090"
      command:
        - python
        - -c
        - |
          import os, socket, sys, urllib.error, urllib.request
          host, port = os.environ["ADMIN"].rsplit(":", 1)
          pods = sorted({found[4][0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
          failed = 0
          for pod in pods:
              address = f"[{pod}]" if ":" in pod else pod
              try:
                  with urllib.request.urlopen(f"http://{address}:{port}/readyz", timeout=10) as answer:
                      print(pod, answer.read().decode())
              except OSError as error:
                  failed += 1
                  print(pod, error.read().decode() if isinstance(error, urllib.error.HTTPError) else error)
          sys.exit(f"{failed} of {len(pods)} pods are not ready" if failed else 0)
{{- end }}
