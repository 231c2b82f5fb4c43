package watchdog

import (
	"context"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/weir-run/weir/invoke"
	"github.com/weir-run/weir/watchdog/process"
)

// A watchdog without CPU learned of the handler's end later than it gave up
// waiting for that, and answered as if the handler lived.
func TestEndThatOnlyTheKernelKnowsOf(t *testing.T) {
	reaper := process.NewReaper(false)
	defer reaper.Close()
	child, err := reaper.Start(process.Spec{Path: "/bin/sh", Args: []string{"-c", "exit 3"}})
	if err != nil {
		t.Fatal(err)
	}
	<-child.Done()
	w := &Watchdog{cfg: Config{Command: []string{"sh"}}, child: child}
	w.inLine, w.endLine = context.WithCancelCause(context.Background())
	r := httptest.NewRequest("POST", "/", nil)
	end := w.endLine
	time.AfterFunc(2*endUnknown, func() { end(errDead) })
	if !w.missed(r, invoke.ErrUnreachable) {
		t.Error("a handler that has ended passes for one that lives")
	}

	w.inLine, w.endLine = context.WithCancelCause(context.Background())
	w.daemon.Store(true)
	if w.missed(r, invoke.ErrUnreachable) {
		t.Error("what a handler left in the background passes for one that has ended")
	}
}
