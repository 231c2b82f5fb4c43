package kube

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

func TestShortGrace(t *testing.T) {
	seconds := func(n int64) *int64 { return &n }
	for _, c := range []struct {
		name  string
		grace *int64
		env   []corev1.EnvVar
		want  string
	}{
		{"all defaults", nil, nil, "30s to end (terminationGracePeriodSeconds), and fwatchdog may drain for 35s"},
		{"enough", seconds(60), nil, ""},
		{"just enough", seconds(35), nil, ""},
		{"a longer drain", seconds(60), []corev1.EnvVar{{Name: "write_timeout", Value: "2m"}}, "1m0s to end (terminationGracePeriodSeconds), and fwatchdog may drain for 2m5s"},
		{"whole seconds", seconds(60), []corev1.EnvVar{{Name: "write_timeout", Value: "90"}}, "1m35s"},
		{"short by its own settings", nil, []corev1.EnvVar{{Name: "shutdown_timeout", Value: "10s"}}, ""},
		{"a short write_timeout", nil, []corev1.EnvVar{{Name: "write_timeout", Value: "3s"}}, ""},
		{"the other spelling wins", seconds(60), []corev1.EnvVar{{Name: "WATCHDOG_SHUTDOWN_TIMEOUT", Value: "90s"}, {Name: "shutdown_timeout", Value: "1s"}}, "1m35s"},
		{"empty is unset", nil, []corev1.EnvVar{{Name: "write_timeout"}}, "35s"},
		{"not to be read", nil, []corev1.EnvVar{{Name: "write_timeout", Value: "soon"}}, ""},
		{"from elsewhere", nil, []corev1.EnvVar{{Name: "shutdown_timeout", ValueFrom: &corev1.EnvVarSource{}}}, ""},
	} {
		template := &corev1.PodTemplateSpec{Spec: corev1.PodSpec{TerminationGracePeriodSeconds: c.grace, Containers: []corev1.Container{{Env: c.env}}}}
		if got := shortGrace(template); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, expected %q", c.name, got, c.want)
		}
	}
	if got := shortGrace(&corev1.PodTemplateSpec{}); got != "" {
		t.Errorf("without containers: %q", got)
	}
}

// It is said of fwatchdogs only, and so not before one was heard.
func TestShortGraceIsToldOfWatchdogs(t *testing.T) {
	v, f, owner := newTestView("ns")
	readAll(v, "ns")
	app := map[string]string{"app": "f"}
	d := deployment("ns", "f", "u", app, marked)
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "f"}}
	v.workload(readDeployment(d))
	put := func(ready bool) {
		p := livePod("ns", "p", "p", app, workloadKey{})
		if ready {
			alive(p, "198.51.100.1")
		}
		v.pod(readPod(p))
	}
	for _, nature := range []fleet.Nature{fleet.Plain, fleet.Watchdog, fleet.Watchdog} {
		put(false)
		f.Get(function.Ref{Name: "f", Namespace: "ns"}).Pods()[0].Learn(fleet.Saying{State: fleet.Started, Nature: nature})
		before := len(owner.all)
		put(true)
		if nature == fleet.Plain && len(owner.all) != before {
			t.Errorf("told of a plain pod: %v", owner.all)
		}
	}
	if len(owner.all) != 1 || owner.all[0] != "Deployment f GraceTooShort" {
		t.Errorf("told %v, expected it once", owner.all)
	}
}
