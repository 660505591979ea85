{{- define "extproc.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "extproc.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "extproc.labels" -}}
{{ include "extproc.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "extproc.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What the restricted Pod Security Standard asks of a container. */ -}}
{{- define "extproc.restricted" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- /* The settings of the operator as variables, in order, a list with commas between. */ -}}
{{- define "extproc.settings" -}}
{{- range $name, $value := .Values.settings }}
- name: EXTPROC_{{ upper $name }}
  value: {{ kindIs "slice" $value | ternary (join "," (kindIs "slice" $value | ternary $value list)) (toString $value) | quote }}
{{- end }}
{{- end -}}

{{- /* The recorder, as a container that starts before Envoy and ends after it. `journal` and `run` are volumes. */ -}}
{{- define "extproc.recorder" -}}
name: extproc
image: {{ include "extproc.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
restartPolicy: Always
args: [serve]
env:
- {name: EXTPROC_LISTEN, value: "unix:/run/extproc/extproc.sock"}
- {name: EXTPROC_DATA_DIR, value: /var/lib/extproc}
- {name: EXTPROC_ADMIN_HOST, value: 0.0.0.0}
- {name: EXTPROC_DRAIN_SECONDS, value: {{ .Values.drainSeconds | quote }}}
{{- include "extproc.settings" . }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
ports:
- {name: extproc-admin, containerPort: 9464, protocol: TCP}
startupProbe:
  httpGet: {path: /readyz, port: extproc-admin}
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /readyz, port: extproc-admin}
  periodSeconds: 5
livenessProbe:
  httpGet: {path: /healthz, port: extproc-admin}
  failureThreshold: 6
{{- with .Values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
- {name: run, mountPath: /run/extproc}
- {name: journal, mountPath: /var/lib/extproc}
- {name: tmp, mountPath: /tmp}
{{- end -}}
