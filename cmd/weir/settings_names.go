package main

import (
	"strings"
	"time"

	"github.com/weir-run/weir/function"
)

// validateNames finds what is no name where one is expected: Kubernetes, and
// what reads them later, would not say which variable it came from.
func (s *settings) validateNames(fault func(format string, args ...any)) {
	namespaces := list(s.Namespace.val)
	switch {
	case s.Namespace.val == "":
	case s.Provider.val == "local" && (len(namespaces) != 1 || !isLabel(namespaces[0])):
		fault("WEIR_NAMESPACE=%q: expected one namespace, of lower case letters, digits and '-', for functions of a stack that name none; local serves every namespace of the stack", s.Namespace.val)
	case len(namespaces) == 0, !all(namespaces, func(name string) bool { return name == "*" || isLabel(name) }):
		fault("WEIR_NAMESPACE=%q: expected namespaces with commas, each of lower case letters, digits and '-', or *", s.Namespace.val)
	}
	// The name of a Lease, the value of a label, and what streams are named by:
	// the last takes no dots.
	if !isLabel(s.Release.val) {
		fault("WEIR_RELEASE=%q: expected lower case letters, digits and '-', at most 63", s.Release.val)
	}
	if strings.Contains(s.BasicAuthUser.val, ":") {
		fault("WEIR_BASIC_AUTH_USER=%q: expected a name without ':', for basic auth ends the user there", s.BasicAuthUser.val)
	}
}

// validateHold finds bounds of what waits for a pod by which nothing could wait:
// then no function would ever be woken.
func (s *settings) validateHold(fault func(format string, args ...any)) {
	if n := s.HoldRequests; n.want == "" && n.val < 1 {
		fault("WEIR_HOLD_REQUESTS=%q: expected at least 1", n.text)
	}
	if b := s.HoldBytes; b.want == "" && b.val < 1 {
		fault("WEIR_HOLD_BYTES=%q: expected at least 1", b.text)
	}
	if d := s.HoldTimeout; d.want == "" && d.val < time.Millisecond {
		fault("WEIR_HOLD_TIMEOUT=%q: expected at least 1ms", d.text)
	}
}

func all(texts []string, is func(string) bool) bool {
	for _, text := range texts {
		if !is(text) {
			return false
		}
	}
	return true
}

func isLabel(text string) bool {
	ref, err := function.ParseRef(text, "default")
	return err == nil && ref.Name == text
}
