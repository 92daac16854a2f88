{{- define "retentiond.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{- else -}}{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "retentiond.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "retentiond.labels" -}}
{{ include "retentiond.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "retentiond.image" -}}
{{- $repository := required "image.repository: say where you keep the image" .Values.image.repository -}}
{{- if .Values.image.digest -}}{{ $repository }}@{{ .Values.image.digest }}{{- else -}}{{ $repository }}:{{ default .Chart.AppVersion .Values.image.tag }}{{- end -}}
{{- end -}}

{{- define "retentiond.config" -}}
{{- if .Values.config -}}{{ .Values.config }}{{- else -}}{{ .Files.Get "files/retentiond.toml" }}{{- end -}}
{{- end -}}

{{/* What the daemon and the migration share. */}}
{{- define "retentiond.env" -}}
- name: RETENTIOND_CONFIG
  value: /etc/retentiond/retentiond.toml
- name: RETENTIOND__MODE
  value: {{ required "mode: say observe or enforce; enforce deletes, and there is no default" .Values.mode | quote }}
- name: RETENTIOND__DATABASE__URL_FILE
  value: /run/secrets/retentiond/database/url
- name: RETENTIOND__LOG__FORMAT
  value: json
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "retentiond.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "retentiond.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
