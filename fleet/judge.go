package fleet

import (
	"net/http"
	"strings"

	"github.com/weir-run/weir/contract"
)

// lostTries is how often a pod that serves may leave a probe without an answer
// before it counts as not started: one may be a moment without CPU.
const lostTries = 2

// judge makes of what was known, of the provider's word and of a probe what is
// known now. guessed says that a plain pod is one only because it is silent.
func judge(was Saying, ready bool, out outcome) (now Saying, guessed bool) {
	switch out.kind {
	case answered:
		if out.answer.watchdog {
			return judgeWatchdog(out.answer), false
		}
		// What stands before a pod, such as a mesh's sidecar, says this while
		// the pod itself is not there.
		gatewayError := out.answer.status >= 502 && out.answer.status <= 504
		if gatewayError && was.Nature != Plain && (was.Nature == Watchdog || !ready) {
			return lost(was), false
		}
		return plain(ready), false
	case garbage:
		return plain(ready), false
	case open:
		return plain(ready), false
	case silence:
		if was.Nature == Plain || was.Nature == Unknown && ready && out.misses >= silentTries {
			return plain(ready), true
		}
	}
	if was.State == Started && out.misses > 0 && out.misses < lostTries && (was.Nature == Watchdog || ready) {
		return was, false
	}
	return lost(was), false
}

func judgeWatchdog(a answer) Saying {
	s := Saying{Nature: Watchdog, MaxInflight: a.maxInflight, MaxQueue: a.maxQueue}
	switch {
	case a.status >= 200 && a.status < 300: // 2xx of a ready_path are passed on
		s.State, s.Room = Started, true
	case a.status == http.StatusTooManyRequests:
		s.State = Started
	case a.status == http.StatusServiceUnavailable && a.body == contract.RejectDraining:
		s.State = Stopping
	case a.status == http.StatusServiceUnavailable && guarded(a.body):
		s.State, s.Guarded = Started, true
	}
	return s
}

// guarded says whether a watchdog is not ready for want of a resource: the name
// of the resource comes first. Only one whose handler serves looks at that. For
// any other reason, such as a ready_path that does not say yes, it has not
// started.
func guarded(body string) bool {
	resource, _, _ := strings.Cut(body, ":")
	switch resource {
	case contract.RejectMemory, contract.RejectFds, contract.RejectPids, contract.RejectDisk:
		return true
	}
	return false
}

// plain is a pod without fwatchdog at whose address somebody is.
func plain(ready bool) Saying {
	s := Saying{Nature: Plain}
	if ready {
		s.State, s.Room = Started, true
	}
	return s
}

// lost is a pod that did not answer: what it is stays known.
func lost(was Saying) Saying {
	was.State, was.Room, was.Guarded = Starting, false, false
	return was
}
