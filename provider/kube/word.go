package kube

import (
	"fmt"
	"slices"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// word is something that a function's owner should know.
type word struct{ reason, message string }

// words are all that there are at the moment.
func (v *view) words(w *workload) (all []word) {
	if w.hidden {
		all = append(all, word{"NameTaken", fmt.Sprintf(
			"Not served: there is a Deployment %s too, and it is served under the name. Rename one of the two.", w.ref)})
	}
	for _, fault := range w.details.faults {
		all = append(all, faultWord(fault))
	}
	if w.details.grace != "" && v.drains(w) {
		all = append(all, word{"GraceTooShort", w.details.grace})
	}
	return all
}

// drains says whether a pod of the function is known to be a fwatchdog.
func (v *view) drains(w *workload) bool {
	e := v.fleet.Get(w.ref)
	return e != nil && !w.hidden && slices.ContainsFunc(e.Pods(), func(p *fleet.Pod) bool { return p.Said().Nature == fleet.Watchdog })
}

// report says what is new, once. Each weir logs it; the owner's Event comes
// from the one that leads, as soon as one does.
func (v *view) report(w *workload) {
	words := v.words(w)
	if len(words)+len(w.logged)+len(w.told) == 0 {
		return
	}
	for _, it := range words {
		if !slices.Contains(w.logged, it) {
			v.log.Warn(it.message, "kind", w.kind, "function", w.ref.String(), "reason", it.reason)
		}
	}
	told := slices.DeleteFunc(slices.Clone(w.told), func(it word) bool { return !slices.Contains(words, it) })
	for _, it := range words {
		if !slices.Contains(told, it) && v.tell(w.subject(), it.event()) {
			told = append(told, it)
		}
	}
	w.logged, w.told = words, told
}

func (w word) event() function.Event {
	return function.Event{Warning: true, Reason: w.reason, Message: w.message}
}

func faultWord(fault function.Fault) word {
	return word{"BadSetting", fault.String() + ". The default is used."}
}

// tellAll tells what only the weir that leads may.
func (v *view) tellAll() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, sp := range v.spaces {
		if !v.open(sp.name) {
			continue
		}
		for _, w := range sp.workloads {
			v.report(w)
		}
		for _, it := range sp.suspects {
			v.reportSuspect(it)
		}
	}
}

// suspect remembers the faults of what is not marked.
func (v *view) suspect(sp *space, found reading) {
	key := found.subject.workloadKey
	if len(found.faults) == 0 {
		delete(sp.suspects, key)
		return
	}
	if old := sp.suspects[key]; old != nil && slices.Equal(old.faults, found.faults) {
		return
	}
	it := &suspect{reading: found}
	sp.suspects[key] = it
	for _, fault := range found.faults {
		v.log.Warn("Not a function, for want of a mark that can be read", "fault", fault.String())
	}
	v.reportSuspect(it)
}

func (v *view) reportSuspect(it *suspect) {
	if it.told {
		return
	}
	it.told = true
	for _, fault := range it.faults {
		it.told = v.tell(it.subject, word{"BadSetting", "Not a function: " + fault.String() + "."}.event()) && it.told
	}
}
