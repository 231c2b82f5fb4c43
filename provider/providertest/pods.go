package providertest

import (
	"fmt"
	"net"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

func podsComeAndGo(w *world) {
	ref := w.make("a")
	v := w.start()
	e := v.entry(ref)
	v.scale(ref, 3)
	three := v.up(ref, 3)
	names, uids := map[string]bool{}, map[string]bool{}
	for _, p := range three {
		a := p.About()
		names[a.Name], uids[a.UID] = true, true
		for what, addr := range map[string]string{"address": a.Addr, "metrics": a.Metrics} {
			if host, port, err := net.SplitHostPort(addr); err != nil || net.ParseIP(host) == nil || port == "" {
				w.t.Errorf("the %s of %s is %q, expected IP:PORT", what, a.Name, addr)
			}
		}
		if a.Created.IsZero() || time.Since(a.Created) < -time.Minute {
			w.t.Errorf("%s was created at %v", a.Name, a.Created)
		}
	}
	if len(names) != 3 || len(uids) != 3 || names[""] || uids[""] {
		w.t.Errorf("three pods are named %v with UIDs %v, expected three of each, none empty", names, uids)
	}

	v.scale(ref, 1)
	one := v.up(ref, 1)
	left := 0
	for _, p := range three {
		if p == one[0] {
			left++
			continue
		}
		// A pod keeps what was last said of it when it is gone.
		if !p.About().Stopping {
			w.t.Errorf("%s went without having been said to stop", p.About().Name)
		}
		if p.State() != fleet.Stopping {
			w.t.Errorf("%s is gone, and %v", p.About().Name, p.State())
		}
	}
	if left != 1 {
		w.t.Errorf("of three pods %d were left by shrinking to one, expected the same one as before", left)
	}
	v.scale(ref, 0)
	v.up(ref, 0)
	if !one[0].About().Stopping {
		w.t.Error("the last pod went without having been said to stop")
	}
	if v.entry(ref) != e {
		w.t.Error("the function became another entry, though it was there all the time")
	}
	v.scale(ref, 2)
	for _, p := range v.up(ref, 2) {
		if uids[p.About().UID] {
			w.t.Errorf("a new pod has the UID %s of an old one", p.About().UID)
		}
	}
}

func shrinkSparesTheBusy(w *world) {
	if w.Unordered {
		w.t.Skip("which pods go is not to be chosen")
	}
	ref := w.make("a")
	v := w.start()
	for round := range 3 {
		v.scale(ref, 3)
		pods := v.up(ref, 3)
		// Another one is busiest in each round, so that order by age or name
		// cannot pass for it.
		busiest, busy := pods[round], pods[(round+1)%3]
		// What was said before is replaced.
		for _, said := range []map[string]int{
			{pods[(round+2)%3].About().Name: 9, "gone": 3},
			{busiest.About().Name: 5, busy.About().Name: 2},
		} {
			if err := v.Spare(w.t.Context(), ref, said); err != nil {
				w.t.Fatalf("Spare: %v", err)
			}
		}
		v.scale(ref, 2)
		for _, p := range v.up(ref, 2) {
			if p != busiest && p != busy {
				w.t.Errorf("round %d: the idle one of three pods was kept", round)
			}
		}
		v.scale(ref, 1)
		if p := v.up(ref, 1)[0]; p != busiest {
			w.t.Errorf("round %d: kept %s, expected the busiest, %s", round, p.About().Name, busiest.About().Name)
		}
		if err := v.Spare(w.t.Context(), ref, nil); err != nil {
			w.t.Errorf("Spare of nothing: %v", err)
		}
	}
}

func restartIsAnotherPod(w *world) {
	if w.Restart == nil {
		w.t.Skip("pods are never restarted here")
	}
	ref := w.make("a")
	v := w.start()
	v.scale(ref, 1)
	old := v.up(ref, 1)[0]
	w.Restart(w.t, ref, old.About().Name)
	v.until("the restarted pod", func() string {
		pods := v.entry(ref).Pods()
		if len(pods) != 1 || pods[0] == old {
			return fmt.Sprintf("%d pods, the old one among them", len(pods))
		}
		a := pods[0].About()
		return differs("ready with an address", a.Ready && a.Addr != "", true)
	})
	if uid := v.entry(ref).Pods()[0].About().UID; uid == old.About().UID {
		w.t.Errorf("another process has the same UID %s", uid)
	}
	w.wrote(ref, Write{0, 1})
}

func madeLater(w *world) {
	if w.Static {
		w.t.Skip("functions are there from the beginning")
	}
	w.Make(w.t, Function{Name: "early", Labels: labels(), Replicas: 2})
	v := w.start()
	v.up(w.ref("early"), 2)
	w.Make(w.t, Function{Name: "late", Labels: labels("weir/max", "4"), Replicas: 1})
	v.until("one made later", func() string { return differs("known", v.fleet.Get(w.ref("late")) != nil, true) })
	v.up(w.ref("late"), 1)
	if n := v.entry(w.ref("late")).Function().Spec.Max; n != 4 {
		w.t.Errorf("its max is %d, expected 4", n)
	}
	v.scale(w.ref("late"), 0)
	v.up(w.ref("late"), 0)
}

func relabelled(w *world) {
	if w.Static {
		w.t.Skip("functions do not change")
	}
	ref := w.make("a")
	v := w.start()
	v.scale(ref, 1)
	pod := v.up(ref, 1)[0]
	for i, want := range []int{3, 11, 4} {
		w.Relabel(w.t, ref, with(labels(), "weir/max", fmt.Sprint(want)))
		v.until("another max", func() string { return differs("max", v.entry(ref).Function().Spec.Max, want) })
		if len(v.entry(ref).Function().Faults) != 0 {
			w.t.Errorf("change %d: faults %v", i, v.entry(ref).Function().Faults)
		}
	}
	w.Relabel(w.t, ref, with(labels(), "weir/max", "0x"))
	v.until("a bad max", func() string { return differs("faults", len(v.entry(ref).Function().Faults), 1) })
	w.Relabel(w.t, ref, labels())
	v.until("no max", func() string {
		fn := v.entry(ref).Function()
		if len(fn.Faults) != 0 {
			return fmt.Sprint(fn.Faults)
		}
		return differs("max", fn.Spec.Max, function.DefaultMax)
	})
	if got := v.up(ref, 1)[0]; got != pod {
		w.t.Error("labels of the function changed, and its pod is another one")
	}
	w.wrote(ref, Write{0, 1})
}

func resizedFromOutside(w *world) {
	if w.Static {
		w.t.Skip("functions do not change")
	}
	ref := w.make("a")
	v := w.start()
	before := v.version(ref, 0)
	w.Resize(w.t, ref, 2)
	v.up(ref, 2)
	if err := v.Scale(w.t.Context(), ref, 1, before); err == nil {
		w.t.Error("Scale with the version from before somebody else's change returned nil")
	}
	w.Resize(w.t, ref, 0)
	v.up(ref, 0)
	w.wakes(ref, 10, 1, v)
	v.up(ref, 1)
	w.wrote(ref, Write{0, 2}, Write{2, 0}, Write{0, 1})
}

func removed(w *world) {
	if w.Static {
		w.t.Skip("functions do not go")
	}
	ref, other := w.make("a"), w.make("b")
	v := w.start()
	v.scale(ref, 2)
	pods := v.up(ref, 2)
	e := v.entry(ref)
	w.Remove(w.t, ref)
	v.until("removal", func() string { return differs("known", v.fleet.Get(ref) != nil, false) })
	if !e.Gone() || len(e.Pods()) != 0 {
		w.t.Errorf("a removed function: gone %t, with %d pods", e.Gone(), len(e.Pods()))
	}
	for _, p := range pods {
		if p.State() != fleet.Stopping {
			w.t.Errorf("a pod of a removed function is %v", p.State())
		}
	}
	if w.Running != nil {
		v.until("its processes", func() string { return differs("running", w.Running(w.t, ref), 0) })
	}
	v.entry(other)
	if err := v.Wake(w.t.Context(), ref, 1); err == nil {
		w.t.Error("Wake of a removed function returned nil")
	}
}

// One that is made again under its old name is another function.
func madeAnew(w *world) {
	if w.Static {
		w.t.Skip("functions do not go")
	}
	ref := w.make("a", "weir/max", "5")
	v := w.start()
	old, version := v.entry(ref), v.version(ref, 0)
	w.Remove(w.t, ref)
	v.until("removal", func() string { return differs("known", v.fleet.Get(ref) != nil, false) })
	w.make("a", "weir/max", "6")
	v.until("the new one", func() string { return differs("known", v.fleet.Get(ref) != nil, true) })
	if e := v.entry(ref); e == old || e.Gone() || e.Function().Spec.Max != 6 {
		w.t.Errorf("the new one is the old entry: %t, gone %t, max %d", e == old, e.Gone(), e.Function().Spec.Max)
	}
	if err := v.Scale(w.t.Context(), ref, 1, version); err == nil {
		w.t.Error("Scale with the version of the function that was removed returned nil")
	}
	v.scale(ref, 1)
	v.up(ref, 1)
}
