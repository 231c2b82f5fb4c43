package autoscaler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// A function that runs elsewhere may have a fwatchdog, but where its counters
// are nobody says: it is known by what the gateways give it.
func TestAWatchdogElsewhereIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, spec(), 0)
		fn := w.fn
		fn.Kind, fn.Fixed, fn.Replicas = function.KindURL, true, 1
		fn.Pods = []function.Pod{{Name: "f-0", UID: "f-0", Addr: "198.51.100.1:80", Ready: true, Created: time.Now()}}
		w.fleet.Put(&fn)
		w.entry().Pods()[0].Learn(fleet.Saying{State: fleet.Started, Nature: fleet.Watchdog, Room: true, MaxInflight: 10})
		w.run(func(a *Autoscaler) {
			after(5 * time.Second)
			w.mu.Lock()
			defer w.mu.Unlock()
			if n := w.reads["f-0"]; n != 0 {
				t.Errorf("counters that are nowhere were asked for %d times", n)
			}
		})
	})
}
