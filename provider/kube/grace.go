package kube

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// What fwatchdog and Kubernetes do where nothing is said.
const (
	defaultWriteTimeout = 30 * time.Second
	mostDrainInterval   = 5 * time.Second
	defaultGrace        = 30 * time.Second
)

// shortGrace says by how much the time that pods have between TERM and KILL is
// less than a fwatchdog of these settings may drain, or nothing. What is said
// by no plain value, or not as a time, is not looked at.
func shortGrace(template *corev1.PodTemplateSpec) string {
	i := functionContainer(template.Annotations, template.Spec.Containers)
	if i < 0 {
		return ""
	}
	env := template.Spec.Containers[i].Env
	write, readable := timeSetting(env, "write_timeout", defaultWriteTimeout)
	interval, ok := timeSetting(env, "healthcheck_interval", min(write, mostDrainInterval))
	readable = readable && ok
	shutdown, ok := timeSetting(env, "shutdown_timeout", write)
	if !readable || !ok {
		return ""
	}
	grace := defaultGrace
	if seconds := template.Spec.TerminationGracePeriodSeconds; seconds != nil {
		grace = time.Duration(*seconds) * time.Second
	}
	if drain := interval + shutdown; drain > grace {
		return fmt.Sprintf("Pods have %v to end (terminationGracePeriodSeconds), and fwatchdog may drain for %v: "+
			"healthcheck_interval %v and shutdown_timeout %v. Longer requests are cut. Raise the first or lower the others.",
			grace, drain, interval, shutdown)
	}
	return ""
}

// timeSetting reads one of fwatchdog's, in either spelling.
func timeSetting(env []corev1.EnvVar, name string, unset time.Duration) (value time.Duration, readable bool) {
	text := ""
	for _, spelling := range []string{name, "WATCHDOG_" + strings.ToUpper(name)} {
		for _, e := range env {
			if e.Name != spelling {
				continue
			}
			if e.ValueFrom != nil {
				return 0, false
			}
			if e.Value != "" {
				text = e.Value
			}
		}
	}
	if text == "" {
		return unset, true
	}
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		return time.Duration(n) * time.Second, n >= 0
	}
	value, err := time.ParseDuration(text)
	return value, err == nil && value >= 0
}
