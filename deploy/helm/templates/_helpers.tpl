{{- define "fcs.labels" -}}
app.kubernetes.io/name: fcs-serve
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "fcs.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default (ternary (printf "%s-cuda" .Chart.AppVersion) .Chart.AppVersion .Values.gpu.enabled) }}{{ end }}
{{- end }}
