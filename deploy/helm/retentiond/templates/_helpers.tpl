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
{{- if .Values.verifier.existingSecret }}
- name: RETENTIOND__VERIFIER__URL_FILE
  value: /run/secrets/retentiond/verifier/url
{{- end }}
{{- if .Values.ledger.existingSecret }}
- name: RETENTIOND__LEDGER__KEY_FILE
  value: /run/secrets/retentiond/ledger/ledger.key
{{- end }}
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* The migration reads the same configuration, and begins the ledger with the key that the daemon signs with. */}}
{{- define "retentiond.volumeMounts" -}}
- {name: config, mountPath: /etc/retentiond, readOnly: true}
- {name: database, mountPath: /run/secrets/retentiond/database, readOnly: true}
{{- if .Values.verifier.existingSecret }}
- {name: verifier, mountPath: /run/secrets/retentiond/verifier, readOnly: true}
{{- end }}
{{- if .Values.ledger.existingSecret }}
- {name: ledger, mountPath: /run/secrets/retentiond/ledger, readOnly: true}
{{- end }}
- {name: tmp, mountPath: /tmp}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Beside those of the configuration and the database's address, which differ. */}}
{{- define "retentiond.volumes" -}}
{{- if .Values.verifier.existingSecret }}
- name: verifier
  secret:
    secretName: {{ .Values.verifier.existingSecret }}
    defaultMode: 0440
    items: [{key: {{ .Values.verifier.key }}, path: url}]
{{- end }}
{{- if .Values.ledger.existingSecret }}
- name: ledger
  secret:
    secretName: {{ .Values.ledger.existingSecret }}
    defaultMode: 0440
    items: [{key: {{ .Values.ledger.key }}, path: ledger.key}]
{{- end }}
- name: tmp
  emptyDir: {}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
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
