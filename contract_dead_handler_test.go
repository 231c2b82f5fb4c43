package main_test

import (
	"fmt"
	"net"
	"strconv"
	"syscall"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// wantHandlerRefused fails unless a is a whole refusal for the reason handler,
// with the status that a dead handler has always had.
func wantHandlerRefused(t testing.TB, a answer) {
	t.Helper()
	wantOwn(t, a, 502)
	if got := a.Header.Get("X-Watchdog-Reject"); got != "handler" {
		t.Errorf("X-Watchdog-Reject %q, want handler: %s", got, a.body)
	}
	if s, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || s < 1 {
		t.Errorf("Retry-After %q, want whole seconds, at least 1", a.Header.Get("Retry-After"))
	}
	if !a.Close {
		t.Error("no Connection: close, though the watchdog is about to exit")
	}
}

// wantMayHaveBegun fails unless a is a 502 that nobody is told to send again.
func wantMayHaveBegun(t testing.TB, a answer) {
	t.Helper()
	wantOwn(t, a, 502)
	if got := a.Header.Get("X-Watchdog-Reject"); got != "" {
		t.Errorf("X-Watchdog-Reject %q of a request that the handler may have begun", got)
	}
}

// outlast has the watchdog stay a moment longer than its handler: for a client
// that is slow with a short body, of which the handler gets nothing before it
// is whole. finish sends the rest.
func (w *instance) outlast() (finish func() answer) {
	w.t.Helper()
	slow := w.call(rawHead("POST", "/echo", "slow", []string{"Content-Length: 5"}) + "5b")
	w.waitSample("http_requests_in_flight", 1)
	return func() answer {
		w.t.Helper()
		slow.write("yte")
		return slow.answer()
	}
}

// freeze stops the watchdog, thaw lets it go on.
func (w *instance) freeze() {
	w.t.Helper()
	w.signal(syscall.SIGSTOP)
	programtest.Eventually(w.t, "the watchdog is stopped", func() bool { return stopped(w.pid) })
}

func (w *instance) thaw() { w.t.Helper(); w.signal(syscall.SIGCONT) }

// killHandler ends the handler and waits until it is gone.
func (w *instance) killHandler() {
	w.t.Helper()
	handler := descendants(w.pid)
	for _, p := range handler {
		p.kill()
	}
	wantAllDead(w.t, handler)
}

// Requests that came between the handler's death and the watchdog's own end
// got a 502 like those that the handler had begun, and nobody could know that
// they are safe to send elsewhere.
func TestRequestsThatMeetADeadHandler(t *testing.T) {
	for name, limits := range map[string][]string{
		"no limit": nil,
		"a queue":  {"max_inflight=2", "max_queue=100"},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t, append(limits, "exec_timeout=1h", "write_timeout=1h", "read_timeout=1h")...)
			finish := w.outlast()
			w.freeze() // they come before it can know
			w.killHandler()
			long := numbered(1 << 20)
			var all []*caller
			for i := range 20 {
				id := fmt.Sprint("late", i)
				switch i % 7 {
				case 0:
					all = append(all, w.call(rawHead("POST", "/echo", id, []string{"Content-Length: 0"})))
				case 1:
					all = append(all, w.call(rawPost("/echo", id, "5byte")))
				case 2:
					all = append(all, w.call(rawPost("/echo", id, long)))
				case 3:
					all = append(all, w.call(rawChunks("/echo", id, long)))
				case 4:
					all = append(all, w.call(rawGet("/status", id)))
				case 5:
					all = append(all, w.call(rawHead("DELETE", "/status", id, nil)))
				case 6:
					all = append(all, w.call(rawHead("PUT", "/echo", id, []string{"Content-Length: 5"})+"5byte"))
				}
			}
			w.thaw()
			for i, c := range all {
				a, err := c.tryAnswer()
				if err != nil {
					t.Errorf("request %d: no answer: %v", i, err)
					continue
				}
				wantHandlerRefused(t, a)
			}
			wantHandlerRefused(t, finish())
			if code := w.wait(); code != 137 {
				t.Errorf("exit code %d, want 137", code)
			}
			if n := len(w.records()); n != 0 {
				t.Errorf("the handler saw %d requests, want none", n)
			}
		})
	}
}

// Once the end of the handler is known nobody is asked any more, so an
// idempotent request is refused as surely as any other.
func TestGetsThatMeetAHandlerKnownToBeDead(t *testing.T) {
	parallel(t)
	w := startMisbehaving(t, "exec_timeout=1h", "write_timeout=1h", "read_timeout=1h")
	finish := w.outlast()
	get := w.call("") // connected before the port closes
	w.killHandler()
	programtest.Eventually(t, "the listener is closed", func() bool {
		_, err := w.status("/_/health")
		return err != nil
	})
	get.write(rawGet("/status", "get"))
	wantHandlerRefused(t, get.answer())
	wantHandlerRefused(t, finish())
	if n := len(w.records()); n != 0 {
		t.Errorf("the handler saw %d requests, want none", n)
	}
}

// A request that a handler dies of was dialled for once more, found nobody,
// and would have been sent to the next pod, and to the next.
func TestRequestThatKillsTheHandlerIsNotSentOn(t *testing.T) {
	for _, method := range []string{"GET", "PUT", "POST"} {
		t.Run(method, func(t *testing.T) {
			parallel(t)
			w := startMisbehaving(t)
			// The connection to the handler is kept for half a second after it.
			wantStatus(t, w.do("GET", "/status", ""), 200)
			wantMayHaveBegun(t, w.do(method, "/exit?code=3", ""))
			if code := w.wait(); code != 3 {
				t.Errorf("exit code %d, want 3", code)
			}
		})
	}
}

// A handler that takes no connection and lives, and one that is none of the
// watchdog's own, are no dead ones: the watchdog says on that it is ready, and
// what is sent elsewhere would come back at once.
func TestClosedPortIsNoDeadHandler(t *testing.T) {
	for name, env := range map[string][]string{
		"of a handler that lives": {"fprocess=" + child(t, "http") + " sleep 1h"},
		"somewhere else":          nil,
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			l, err := net.Listen("tcp", programtest.FreeAddr(t)) // which nobody else takes then
			if err != nil {
				t.Fatal(err)
			}
			w := start(t, append(env, "mode=http", "upstream_url=http://"+l.Addr().String())...)
			l.Close()
			for _, method := range []string{"POST", "GET"} {
				wantMayHaveBegun(t, w.do(method, "/", ""))
			}
			if got, err := w.status("/_/ready"); err != nil || got != 200 {
				t.Errorf("ready %d %v, want 200", got, err)
			}
		})
	}
}
